"""The OpenAPI document and its Swagger UI page, served from installed files without any CDN."""

from importlib.resources import files
from typing import Any

from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme, Tag
from litestar.params import FromPath

_ASSETS = {
    "swagger-ui-bundle.js": ("javascripts", "text/javascript"),
    "swagger-ui.css": ("stylesheets", "text/css"),
}
# The start script is a file of its own, because the content security policy
# (api/middleware/security_headers.py) forbids inline scripts. Without `validatorUrl: null` Swagger UI would
# send the document to a validator on the Internet.
_START_SCRIPT_NAME = "start.js"
_START_SCRIPT = b"""\
window.ui = SwaggerUIBundle({
  url: "/schema/openapi.json",
  dom_id: "#swagger-container",
  deepLinking: true,
  validatorUrl: null,
});
"""
_PAGE = b"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ekabridge</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<script defer src="/docs/assets/swagger-ui-bundle.js"></script>
<script defer src="/docs/assets/start.js"></script>
</head>
<body><div id="swagger-container"></div></body>
</html>
"""


class SwaggerPage(OpenAPIRenderPlugin):
    """A Swagger UI page without inline scripts; Litestar's own page has one, which contains the document."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002 - the page fetches the document itself
        """Return the page."""
        return _PAGE


@get("/docs/assets/{name:str}", include_in_schema=False, cache_control=None, sync_to_thread=True)
def documentation_asset(name: FromPath[str]) -> Response[bytes]:
    """Serve Swagger UI's files from the installed package, and the script that starts it."""
    if name == _START_SCRIPT_NAME:
        content, media_type = _START_SCRIPT, "text/javascript"
    elif name in _ASSETS:
        folder, media_type = _ASSETS[name]
        content = files("mkdocs_swagger_ui_tag").joinpath("swagger-ui", folder, name).read_bytes()
    else:
        raise NotFoundException
    return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"})


@get("/docs", include_in_schema=False, sync_to_thread=False)
def documentation_page() -> Response[bytes]:
    """Redirect to the page under /schema."""
    return Response(b"", status_code=307, headers={"Location": "/schema/swagger"}, media_type="text/plain")


def openapi_config(version: str) -> OpenAPIConfig:
    """Describe the API."""
    return OpenAPIConfig(
        title="ekabridge",
        version=version,
        summary="One simple call starts a dictation; the finished documents come to your endpoint, signed.",
        description=(
            "Send `Authorization: Bearer <key>` with every call under `/v1`. Errors are RFC 9457 problems "
            "with a stable `code`. Times are UTC."
        ),
        license=License(name="MIT", identifier="MIT"),
        path="/schema",
        components=Components(
            security_schemes={
                "apiKey": SecurityScheme(type="http", scheme="bearer", description="A tenant's API key")
            }
        ),
        tags=[
            Tag(name="Sessions", description="A dictation, from its start to its documents"),
            Tag(name="Destinations", description="Where documents go"),
            Tag(name="Deliveries", description="What was sent, and how it went"),
            Tag(name="Vendor", description="Called by EkaScribe"),
            Tag(name="Operators", description="Health and metrics"),
        ],
        render_plugins=[SwaggerPage(path="/swagger")],
    )
