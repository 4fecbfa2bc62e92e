"""`ekabridge demo`: one dictation of real speech, from start to the signed document in an EMR's hands."""

import asyncio
import hashlib
import io
import json
import signal
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import click
import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from service.sandbox.embedded.api import EmbeddedFailed, EmbeddedUnavailable
from service.sandbox.emr.app import create_emr
from service.sandbox.serving import serve_app
from service.sandbox.stack import Stack, StackFailed, running_stack

_CHUNK_SECONDS = 5
_ARRIVAL_SECONDS = 30.0
_TEMPLATE = "eka_emr_template"
_REQUEST = {
    "templates": [_TEMPLATE],
    "reference": "ENC-1",
    "patient": {"id": "PAT-12345", "name": "Demo Patient"},
}


_FRAME_SECONDS = 0.1
# So many times faster than it was spoken: nobody wants to wait for the whole dictation.
_HASTE = 8


class DemoFailed(RuntimeError):
    """A step did not do what it must; the message says which."""


_FAILURES = (
    StackFailed,
    EmbeddedFailed,
    EmbeddedUnavailable,
    DemoFailed,
    httpx2.HTTPError,
    WebSocketException,
)


class Steps:
    """Prints each step with the seconds since the demo began."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Print one step."""
        click.echo(f"{time.monotonic() - self._started:7.2f} s  {text}")


def run_demo(*, live: bool) -> int:
    """Run the demo; 0 only if the document arrived, signed and true to the audio.

    `live`: the audio is streamed while it is spoken, otherwise it is sent in chunks.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    steps = Steps()
    with tempfile.TemporaryFile() as log:
        try:
            steps.say("starting PostgreSQL, Valkey, a stand-in EkaScribe, the service and the worker")
            with running_stack(port=None, temporary=True, log=log.fileno()) as stack:
                steps.say(f"running: {stack.service_url}/docs")
                asyncio.run(_play(stack, steps, live=live))
        except _FAILURES as error:
            click.echo(f"ekabridge demo: {type(error).__name__}: {error}", err=True)
            log.seek(0)
            click.echo(log.read().decode(errors="replace")[-4000:], err=True)
            return 1
        except KeyboardInterrupt:
            return 130
    steps.say("all of it is stopped again; nothing is left on this machine")
    return 0


def _recording() -> bytes:
    return files("service.sandbox").joinpath("recordings", "dictation.wav").read_bytes()


def split_recording(recording: bytes, seconds: int) -> Iterator[bytes]:
    """Split a WAV file into WAV files of so many seconds, as a recorder does that uploads meanwhile."""
    with wave.open(io.BytesIO(recording)) as whole:
        while frames := whole.readframes(whole.getframerate() * seconds):
            chunk = io.BytesIO()
            with wave.open(chunk, "wb") as part:
                part.setparams(whole.getparams())
                part.writeframes(frames)
            yield chunk.getvalue()


async def _play(stack: Stack, steps: Steps, *, live: bool) -> None:
    emr = create_emr()
    async with (
        serve_app(emr) as emr_url,
        httpx2.AsyncClient(base_url=emr_url, trust_env=False, timeout=_ARRIVAL_SECONDS + 5) as emr_http,
        httpx2.AsyncClient(
            base_url=stack.service_url,
            headers={"authorization": f"Bearer {stack.api_key}"},
            trust_env=False,
            timeout=60,
        ) as api,
    ):
        added = _checked(await api.post("/v1/destinations", json={"url": f"{emr_url}/hooks"}), 201)
        await emr_http.post("/_control/secrets", json={"secrets": [added["secret"]]})
        steps.say(f"EMR      registered {added['url']} as the place where documents go")
        session_id, sent = await (_speak(api, steps) if live else _dictate(api, steps))
        received = await _arrival(emr_http)
        steps.say(f"EMR      received {received['body']['type']}, signature {_verified(received)}")
        _check_document(received["body"], session_id, sent)
        steps.say(
            f"check    the transcript has our SHA-256, {hashlib.sha256(sent).hexdigest()}: it is all there"
        )
        await _settled(api, session_id, steps)
        click.echo("\nThe document, as the EMR got it:\n")
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature", "idempotency-key"):
            click.echo(f"  {name}: {received['headers'][name]}")
        click.echo(f"\n{json.dumps(received['body'], indent=2, ensure_ascii=False)}\n")


async def _dictate(api: httpx2.AsyncClient, steps: Steps) -> tuple[str, bytes]:
    """Create a session, send every chunk, end it; return its id and the bytes that were sent."""
    chunks = list(split_recording(_recording(), _CHUNK_SECONDS))
    session = _checked(
        await api.post("/v1/sessions", json=_REQUEST, headers={"idempotency-key": "demo-1"}), 201
    )
    steps.say(f"EMR      POST /v1/sessions               201 {session['id']}")
    for sequence, chunk in enumerate(chunks):
        stored = _checked(
            await api.put(
                f"{session['audio_url']}/{sequence}", content=chunk, headers={"content-type": "audio/x-wav"}
            ),
            200,
        )
        steps.say(
            f"EMR      PUT …/audio/{sequence}                   200 {stored['bytes']:>7} bytes of speech"
        )
    ended = _checked(await api.post(f"/v1/sessions/{session['id']}/end", json={"chunks": len(chunks)}), 202)
    steps.say(f"EMR      POST …/end                      202 {ended['status']}")
    return session["id"], b"".join(chunks)


async def _speak(api: httpx2.AsyncClient, steps: Steps) -> tuple[str, bytes]:
    """Stream the recording as a microphone would; return the session and the samples."""
    with wave.open(io.BytesIO(_recording())) as whole:
        rate, samples = whole.getframerate(), whole.readframes(whole.getnframes())
    size = int(rate * _FRAME_SECONDS) * 2
    session = _checked(await api.post("/v1/sessions", json=_REQUEST | {"upload": "stream"}), 201)
    steps.say(f"EMR      POST /v1/sessions               201 {session['id']}, with a stream_url")
    async with connect(session["stream_url"], compression=None, proxy=None) as stream:
        for position in range(0, len(samples), size):
            await stream.send(samples[position : position + size])
            if position % (size * 50) == 0:
                steps.say(f"EMR      WS                              {position / rate / 2:5.1f} s of speech")
            await asyncio.sleep(_FRAME_SECONDS / _HASTE)
    steps.say(f"EMR      WS closed                       {len(samples)} bytes of PCM at {rate} Hz")
    ended = _checked(await api.post(f"/v1/sessions/{session['id']}/end"), 202)
    steps.say(f"EMR      POST …/end                      202 {ended['status']}")
    return session["id"], samples


async def _arrival(emr_http: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await emr_http.get("/_control/received", params={"count": 1, "wait": _ARRIVAL_SECONDS})
    received = answer.json()
    entries: list[dict[str, Any]] = received if isinstance(received, list) else received["items"]
    if not entries:
        raise DemoFailed(f"no document came within {_ARRIVAL_SECONDS:g} seconds")
    return entries[0]


def _verified(received: dict[str, Any]) -> str:
    if not received["verified"]:
        raise DemoFailed("the document's signature is wrong")
    return "verified"


def _check_document(body: dict[str, Any], session_id: str, sent: bytes) -> None:
    data = body["data"]
    if body["type"] != "document.ready" or data["session_id"] != session_id:
        raise DemoFailed("something else than the document came")
    if data["document"]["template_id"] != _TEMPLATE or data["reference"] != "ENC-1":
        raise DemoFailed("the document is another dictation's")
    if hashlib.sha256(sent).hexdigest() not in (data["transcript"] or ""):
        raise DemoFailed("the transcript is of other audio than was sent")


async def _settled(api: httpx2.AsyncClient, session_id: str, steps: Steps) -> None:
    """Wait until the service has recorded the EMR's answer."""
    deadline = time.monotonic() + _ARRIVAL_SECONDS
    session: dict[str, Any] = {}
    while time.monotonic() < deadline:
        session = _checked(await api.get(f"/v1/sessions/{session_id}"), 200)
        if session["deliveries"]["delivered"]:
            steps.say(f"EMR      GET /v1/sessions/{session_id}: {session['status']}, 1 document delivered")
            return
        await asyncio.sleep(0.02)
    raise DemoFailed(f"the delivery was not recorded: {session.get('deliveries')}")


def _checked(answer: httpx2.Response, status: int) -> dict[str, Any]:
    if answer.status_code != status:
        raise DemoFailed(
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
        )
    body: dict[str, Any] = answer.json()
    return body
