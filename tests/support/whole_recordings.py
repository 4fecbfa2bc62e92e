"""Sends whole recordings of real speech, of any length."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any

import httpx2

SPEECH = Path(__file__).parents[2] / "service" / "sandbox" / "recordings" / "dictation.wav"


def speech(seconds: float) -> bytes:
    """A WAV file of so many seconds: the recorded dictation, repeated."""
    with wave.open(str(SPEECH)) as source:
        rate, width, channels = source.getframerate(), source.getsampwidth(), source.getnchannels()
        frames = source.readframes(source.getnframes())
    size = int(seconds * rate) * width * channels
    written = io.BytesIO()
    with wave.open(written, "wb") as target:
        target.setframerate(rate)
        target.setsampwidth(width)
        target.setnchannels(channels)
        target.writeframes((frames * (size // len(frames) + 1))[:size])
    return written.getvalue()


def form_of(audio: bytes, session: dict[str, Any], media_type: str = "audio/wav") -> list[Any]:
    """The parts of the form, in their order."""
    return [
        ("session", (None, json.dumps(session), "application/json")),
        ("audio", ("visit.wav", audio, media_type)),
    ]


async def send_recording(
    client: httpx2.AsyncClient, audio: bytes, *, key: str | None = None, **session: Any
) -> httpx2.Response:
    """Send a whole recording as an integrator would."""
    headers = {"idempotency-key": key} if key else {}
    return await client.post("/v1/recordings", files=form_of(audio, session), headers=headers)
