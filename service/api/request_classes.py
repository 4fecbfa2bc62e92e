"""Finds the class of a request; each class has limits of its own (middleware/admission_control.py).

The route names its class in its `opt`. The path never decides: several spellings of a path lead to the same
route, with slashes doubled or percent-encoded, and such a spelling would lead a request past its limits.
"""

from typing import Any, Final, Literal

from litestar import Litestar, Request
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler

RequestClassName = Literal["reads", "calls", "uploads", "webhooks", "waits"]

# The key of a route's `opt` that holds its class; None exempts the route from all limits. A route without the
# key belongs to `reads` if its method only reads, else to `calls`.
REQUEST_CLASS: Final = "request_class"
# The key that holds the name of a query parameter: a request with this parameter belongs to `waits`.
WAIT_PARAMETER: Final = "wait_parameter"
# The key of an upload route that takes whole recordings, which are larger than chunks.
TAKES_RECORDINGS: Final = "takes_recordings"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def handler_of(app: Litestar, scope: Any) -> BaseRouteHandler | None:
    """Return the handler that the application will choose for a request, or None if no route matches.

    The lookup costs nothing extra: Litestar caches it and uses it again when it routes the request.
    """
    try:
        return app.asgi_router.handle_routing(path=scope["path"], method=scope["method"])[1]
    except HTTPException:
        return None


def class_of(handler: BaseRouteHandler | None, scope: Any) -> RequestClassName | None:
    """Return the class whose limits apply to a request; None if no limits apply."""
    opt = {} if handler is None else handler.opt
    wait_parameter = opt.get(WAIT_PARAMETER)
    if wait_parameter is not None and wait_parameter in Request[Any, Any, Any](scope).query_params:
        return "waits"
    name: RequestClassName | None = opt.get(REQUEST_CLASS, "reads" if scope["method"] in _READS else "calls")
    return name
