"""What the player of the OpenAPI document cannot know: bodies of audio, signatures of webhooks, patience."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import time
from typing import Any

import schemathesis

AUDIO = (
    "audio/webm;codecs=opus",
    "audio/wav",
    "audio/ogg",
    "audio/ogg;codecs=opus",
    "audio/mp4",
    "audio/m4a",
    "audio/mp3",
)
LONGEST_WAIT_SECONDS = 0.05


@schemathesis.serializer(*AUDIO)
def raw_audio(_: Any, value: Any) -> bytes:
    """Send what was made as it is."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def before_call(_: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Sign what the vendor would sign, and never wait long for a session to change."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        if float(case.query["wait"]) > LONGEST_WAIT_SECONDS:
            case.query["wait"] = LONGEST_WAIT_SECONDS
    secret = os.environ.get("PLAYED_WEBHOOK_SECRET")
    if secret and case.operation.path == "/webhooks/eka" and case.method == "POST":
        # The door takes a signature over the compact form, too, so that it need not be known how it is sent.
        signed = f"{int(time.time())}."
        try:
            signed += json.dumps(case.body, separators=(",", ":"))
        except (TypeError, ValueError):
            return
        mac = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
        case.headers["Eka-Webhook-Signature"] = f"t={signed.partition('.')[0]},v1={mac}"
