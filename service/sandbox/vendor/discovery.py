"""The discovery document of each character."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from service.sandbox.vendor.audio_formats import AUDIO_FORMATS
from service.sandbox.vendor.requests import VendorRequest, base_url, vendor_of


@get("/voice/v1/.well-known/medscribealliance")
async def discover(request: VendorRequest) -> Response[dict[str, Any]]:
    """Answer the discovery document, with URLs on the host that was asked (docs/vendor.md#discovery)."""
    base, settings = base_url(request), vendor_of(request).settings
    traits = settings.traits
    methods = ["chunked", "single", *(["stream"] if settings.is_hosted else [])]
    document = {
        "protocol": "medscribealliance",
        "protocol_version": "0.1",
        "supported_versions": ["0.1"],
        "service": {
            "name": traits.service_name,
            "documentation_url": f"{base}/voice/docs",
            "support_email": "admin@example.com",
        },
        "endpoints": {
            "base_url": f"{base}/voice/v1",
            "webhooks_url": f"{base}/voice/v1/webhooks",
            "templates_url": f"{base}/voice/api/v1/template",
        },
        "authentication": {
            "supported_methods": ["api_key", "oidc"],
            "oidc": {
                "issuer": base,
                "authorization_endpoint": f"{base}/oauth2/authorize",
                "token_endpoint": f"{base}/oauth2/token",
                "scopes_supported": ["openid", "profile"],
            },
        },
        "capabilities": {
            "audio_formats": list(AUDIO_FORMATS),
            "max_chunk_duration_seconds": 20,
            "upload_methods": methods,
            "webhook_delivery": True,
            "client_sdk_delivery": True,
            "storage_providers": ["aws"],
        },
        "models": [
            _describe_model("lite", "Lite", 600, "fast", traits.lite_languages),
            _describe_model("pro", "Professional", 3600, "standard", traits.languages),
        ],
        "languages": {"supported": list(traits.languages), "auto_detection": traits.auto_detection},
    }
    return Response(document, status_code=200, headers={"cache-control": "max-age=10800"})


def _describe_model(
    model_id: str, name: str, seconds: int, speed: str, languages: tuple[str, ...]
) -> dict[str, Any]:
    features = ("realtime_transcription", "speaker_diarization", "custom_templates")
    return {
        "id": model_id,
        "display_name": name,
        "languages": list(languages),
        "max_session_duration_seconds": seconds,
        "response_speed": speed,
        "features": dict.fromkeys(features, model_id == "pro"),
    }
