"""The class of a request, named by its route; each class has its own limits (admission_control.py).

The route decides, by its `opt`, and never the path: many spellings of a path lead to the same
route, with slashes doubled or percent-encoded, and one of them would move a request past its limits.
"""

from typing import Any, Final, Literal

from litestar import Litestar, Request
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler

Kind = Literal["reads", "calls", "uploads", "webhooks", "waits"]

# A route names its kind under this key of its `opt`, None if it is always let in. Without it, a route that
# only reads is of `reads`, any other of `calls`.
REQUEST_KIND: Final = "request_kind"
# And under this one the query parameter with which a call waits.
WAITS_WITH: Final = "waits_with"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def handler_of(app: Litestar, scope: Any) -> BaseRouteHandler | None:
    """Return the handler that the application will choose for a request, None if it has none for it.

    The application looks in the same cache a moment later, so that the route is found once.
    """
    try:
        return app.asgi_router.handle_routing(path=scope["path"], method=scope["method"])[1]
    except HTTPException:
        return None


def kind_of(handler: BaseRouteHandler | None, scope: Any) -> Kind | None:
    """Return which places a request takes one of; None if it is always let in."""
    opt = {} if handler is None else handler.opt
    waits_with = opt.get(WAITS_WITH)
    if waits_with is not None and waits_with in Request[Any, Any, Any](scope).query_params:
        return "waits"
    kind: Kind | None = opt.get(REQUEST_KIND, "reads" if scope["method"] in _READS else "calls")
    return kind
