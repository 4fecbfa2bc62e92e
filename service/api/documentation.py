"""The OpenAPI document and the pages that show it, from files of this installation: no CDN is asked."""

from importlib.resources import files

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme, Tag
from litestar.params import FromPath

_ASSETS = {
    "swagger-ui-bundle.js": ("javascripts", "text/javascript"),
    "swagger-ui-standalone-preset.js": ("javascripts", "text/javascript"),
    "swagger-ui.css": ("stylesheets", "text/css"),
}
_BASE = "/docs/assets"


@get("/docs/assets/{name:str}", include_in_schema=False, cache_control=None, sync_to_thread=True)
def documentation_asset(name: FromPath[str]) -> Response[bytes]:
    """Serve Swagger UI's files from the installed package."""
    if name not in _ASSETS:
        raise NotFoundException
    folder, media_type = _ASSETS[name]
    content = files("mkdocs_swagger_ui_tag").joinpath("swagger-ui", folder, name).read_bytes()
    return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"})


@get("/docs", include_in_schema=False, sync_to_thread=False)
def documentation_page() -> Response[bytes]:
    """Send the reader to the page under /schema."""
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
        render_plugins=[
            SwaggerRenderPlugin(
                js_url=f"{_BASE}/swagger-ui-bundle.js",
                css_url=f"{_BASE}/swagger-ui.css",
                standalone_preset_js_url=f"{_BASE}/swagger-ui-standalone-preset.js",
                favicon='<link rel="icon" href="data:,">',
                path=["/swagger"],
            )
        ],
    )
