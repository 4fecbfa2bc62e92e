"""Every route of the service, taken from the application itself."""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.routes import HTTPRoute, WebSocketRoute

from service.app import create_app
from service.settings import Settings

Route = tuple[str, str]


def application() -> Litestar:
    """The application inside its wrappers, not started."""
    found: Any = create_app(Settings(database_url="postgresql://nowhere/x", redis_url="redis://nowhere"))
    while not isinstance(found, Litestar):
        found = found._app
    return found


def routes() -> set[Route]:
    """Method and path of every route; the framework's own answers to OPTIONS are left out."""
    found: set[Route] = set()
    for route in application().routes:
        if isinstance(route, WebSocketRoute):
            found.add(("WS", route.path_format))
        elif isinstance(route, HTTPRoute):
            found |= {(method, route.path_format) for method in route.methods - {"OPTIONS"}}
        else:
            raise TypeError(f"a route of a kind that no test knows: {route.path}")
    return found
