"""The discovery document: what we take, and where, for whoever asks (facts.md, the last section)."""

from litestar import Response, get
from litestar.di import NamedDependency

from schemas.voice import (
    Discovery,
    DiscoveryAuthentication,
    DiscoveryCapabilities,
    DiscoveryEndpoints,
    DiscoveryLanguages,
    DiscoveryModel,
)
from service.api.services import Services
from service.api.voice.errors import DISCOVERY_PATH
from service.domain.limits import Limits

_CACHE = {"Cache-Control": "max-age=10800"}


@get(
    [DISCOVERY_PATH, f"/voice{DISCOVERY_PATH}", f"/voice/v1{DISCOVERY_PATH}"],
    include_in_schema=False,
)
async def discover(services: NamedDependency[Services]) -> Response[Discovery]:
    """Answer the vendor's limits under our own addresses."""
    limits = await services.discovery.limits()
    return Response(make_discovery(services.settings.public_url or "", limits), headers=_CACHE)


def make_discovery(public_url: str, limits: Limits) -> Discovery:
    """Make the document; what is optional in it and not ours to promise is left out."""
    return Discovery(
        endpoints=DiscoveryEndpoints(base_url=f"{public_url}/voice/v1"),
        authentication=DiscoveryAuthentication(supported_methods=["api_key"]),
        capabilities=DiscoveryCapabilities(
            audio_formats=list(limits.audio_formats),
            max_chunk_duration_seconds=limits.max_chunk_duration_seconds,
            upload_methods=list(limits.upload_methods),
        ),
        models=[
            DiscoveryModel(
                id=model.id,
                display_name=model.id.capitalize(),
                languages=list(model.languages or limits.languages),
                max_session_duration_seconds=model.max_session_duration_seconds,
            )
            for model in limits.models
        ],
        languages=DiscoveryLanguages(supported=list(limits.languages)),
    )
