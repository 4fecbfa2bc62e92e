"""The discovery document of the MedScribe protocol, with all that official clients require in it.

See docs/vendor.md#client-discovery.
"""

from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import UNSET

from schemas.medscribe import (
    Discovery,
    DiscoveryAuthentication,
    DiscoveryCapabilities,
    DiscoveryEndpoints,
    DiscoveryLanguages,
    DiscoveryModel,
    DiscoveryService,
)
from service.api.dependencies import Services
from service.api.medscribe.error_envelope import DISCOVERY_PATH
from service.domain.vendor_limits import Limits

_CACHE = {"Cache-Control": "max-age=10800"}


@get(
    [DISCOVERY_PATH, f"/voice{DISCOVERY_PATH}", f"/voice/v1{DISCOVERY_PATH}"],
    include_in_schema=False,
)
async def discover(services: NamedDependency[Services]) -> Response[Discovery]:
    """Return EkaScribe's limits together with our own addresses."""
    limits = await services.medscribe.discovery.limits()
    settings = services.settings
    document = make_discovery(settings.public_url or "", limits, support_email=settings.support_email)
    return Response(document, headers=_CACHE)


def make_discovery(public_url: str, limits: Limits, *, support_email: str | None = None) -> Discovery:
    """Make the document, without those optional fields that this service cannot promise."""
    return Discovery(
        service=DiscoveryService(
            name=f"{limits.service_name} through ekabridge",
            documentation_url=f"{public_url}/docs" if public_url else UNSET,
            support_email=support_email or UNSET,
        ),
        endpoints=DiscoveryEndpoints(
            base_url=f"{public_url}/voice/v1", templates_url=f"{public_url}/voice/v1/templates"
        ),
        authentication=DiscoveryAuthentication(supported_methods=["api_key"]),
        capabilities=DiscoveryCapabilities(
            audio_formats=list(limits.audio_formats),
            max_chunk_duration_seconds=limits.max_chunk_duration_seconds,
            upload_methods=list(limits.upload_methods),
        ),
        models=[
            DiscoveryModel(
                id=model.id,
                display_name=model.display_name or model.id.capitalize(),
                languages=list(model.languages or limits.languages),
                max_session_duration_seconds=model.max_session_duration_seconds,
                response_speed=model.response_speed or UNSET,
            )
            for model in limits.models
        ],
        languages=DiscoveryLanguages(supported=list(limits.languages), auto_detection=limits.auto_detection),
    )
