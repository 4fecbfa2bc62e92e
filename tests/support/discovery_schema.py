"""What the protocol's specification v0.1 demands of a discovery document, written down from its section 4.

It is stricter than the specification in one point: a field without a value is left out and never null.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT}
_URL = {"type": "string", "pattern": "^https?://[^ ]+[^/]$"}
_FLAG = {"type": "boolean"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": sorted(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


_MODEL = _object(
    {
        "id": {"enum": ["lite", "pro"]},
        "display_name": _TEXT,
        "languages": _TEXTS | {"minItems": 1},
        "max_session_duration_seconds": {"type": "integer", "minimum": 1},
    },
    {"response_speed": {"enum": ["fast", "standard", "thorough"]}},
)

DISCOVERY_SCHEMA = _object(
    {
        "protocol": {"const": "medscribealliance"},
        "protocol_version": {"const": "0.1"},
        "supported_versions": {"type": "array", "contains": {"const": "0.1"}},
        "service": _object(
            {"name": _TEXT},
            {"documentation_url": _URL, "support_email": {"type": "string", "pattern": "^[^@ ]+@[^@ ]+$"}},
        ),
        "endpoints": _object({"base_url": _URL}, {"templates_url": _URL, "webhooks_url": _URL}),
        "authentication": _object(
            {"supported_methods": {"type": "array", "items": {"enum": ["api_key", "oidc"]}, "minItems": 1}}
        ),
        "capabilities": _object(
            {
                "audio_formats": _TEXTS | {"minItems": 1},
                "max_chunk_duration_seconds": {"type": "integer", "minimum": 1},
                "upload_methods": {"type": "array", "items": {"enum": ["chunked", "single", "stream"]}},
                "webhook_delivery": _FLAG,
                "client_sdk_delivery": _FLAG,
            }
        ),
        "models": {"type": "array", "items": _MODEL, "minItems": 1},
        "languages": _object({"supported": _TEXTS | {"minItems": 1}, "auto_detection": _FLAG}),
    }
)
