"""The class of a request, named by its route; each class has its own limits (admission_control.py).

The route decides, by its `opt`, and never the path: many spellings of a path lead to the same
route, with slashes doubled or percent-encoded, and one of them would move a request past its limits.
"""

from typing import Any, Final, Literal

from litestar import Litestar, Request
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler

RequestClassName = Literal["reads", "calls", "uploads", "webhooks", "waits"]

# A route names its name under this key of its `opt`, None if it is always let in. Without it, a route that
# only reads is of `reads`, any other of `calls`.
REQUEST_CLASS: Final = "request_class"
# And under this one the query parameter with which a call waits.
WAIT_PARAMETER: Final = "wait_parameter"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def handler_of(app: Litestar, scope: Any) -> BaseRouteHandler | None:
    """Return the handler that the application will choose for a request, None if it has none for it.

    The application looks in the same cache a moment later, so that the route is found once.
    """
    try:
        return app.asgi_router.handle_routing(path=scope["path"], method=scope["method"])[1]
    except HTTPException:
        return None


def class_of(handler: BaseRouteHandler | None, scope: Any) -> RequestClassName | None:
    """Return which places a request takes one of; None if it is always let in."""
    opt = {} if handler is None else handler.opt
    wait_parameter = opt.get(WAIT_PARAMETER)
    if wait_parameter is not None and wait_parameter in Request[Any, Any, Any](scope).query_params:
        return "waits"
    name: RequestClassName | None = opt.get(REQUEST_CLASS, "reads" if scope["method"] in _READS else "calls")
    return name
