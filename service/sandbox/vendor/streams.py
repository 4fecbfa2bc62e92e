"""Live streams of audio over a WebSocket (docs/vendor.md#stream)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar import WebSocket, websocket
from litestar.datastructures import State
from litestar.params import FromPath

from service.sandbox.vendor.audio import keep_recording
from service.sandbox.vendor.playing_times import PCM_BYTES_PER_SAMPLE, pcm_seconds
from service.sandbox.vendor.records import Recording, Session, StreamLog
from service.sandbox.vendor.state import VendorState

_PIECE_SECONDS = 20
_UNKNOWN_STREAM = 4404
VendorSocket = WebSocket[Any, Any, State]


@websocket("/voice/v1/stream/sessions/{stream_id:str}/audio")
async def stream_audio(socket: VendorSocket, stream_id: FromPath[str]) -> None:
    """Take a stream: binary PCM or JSON frames; its id is the permission (docs/vendor.md#stream).

    After a `stop` the socket is closed with 1000; a frame that is neither format closes it with 1003.
    """
    vendor: VendorState = socket.app.state.vendor
    session = vendor.sessions.get(vendor.streams.get(stream_id, ""))
    if session is None or session.stream is None or session.committed or session.is_expired():
        await socket.close(code=_UNKNOWN_STREAM)
        return
    socket.scope["state"]["sandbox_session_id"] = session.session_id
    await socket.accept()
    log = session.stream
    log.connections += 1
    log.open_connections += 1
    sockets = vendor.sockets.setdefault(session.session_id, set())
    sockets.add(socket)
    intake = _Intake(vendor, session, log)
    try:
        code = await _receive_frames(socket, vendor, intake)
    finally:
        intake.flush()
        log.open_connections -= 1
        sockets.discard(socket)
    if code is not None:
        await asyncio.sleep(vendor.settings.stream_flush_seconds)
        await socket.close(code=code)


async def _receive_frames(socket: VendorSocket, vendor: VendorState, intake: _Intake) -> int | None:
    while True:
        message: Any = await socket.receive()
        if message["type"] == "websocket.disconnect":
            intake.log.close_codes.append(message.get("code") or 1005)
            return None
        await asyncio.sleep(vendor.settings.stream_frame_delay_seconds)
        try:
            if intake.take(message.get("bytes"), message.get("text")):
                return 1000
        except (msgspec.MsgspecError, binascii.Error):
            return 1003


@dataclass
class _Intake:
    """One connection's audio on its way to storage, in pieces of at most 20 s."""

    vendor: VendorState
    session: Session
    log: StreamLog
    buffer: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes | None, text: str | None) -> bool:
        """Take in one frame; True at a `stop`."""
        self.log.frames += 1
        if data is not None:
            self.log.mode = self.log.mode or "binary"
            self._append(data)
            return False
        self.log.mode = self.log.mode or "json"
        frame = msgspec.json.decode(text or "", type=dict[str, Any])
        event = frame.get("event")
        if event == "start":
            media_format = (frame.get("start") or {}).get("mediaFormat") or {}
            self.log.sample_rate = int(media_format.get("sampleRate") or self.log.sample_rate)
        elif event == "media":
            self._append(base64.b64decode((frame.get("media") or {}).get("payload", ""), validate=True))
        elif event == "stop":
            self.log.stops += 1
        return event == "stop"

    def flush(self) -> None:
        """Write what is buffered as the next chunk; after End Session it is lost, and counted as late."""
        if not self.buffer:
            return
        data = bytes(self.buffer)
        self.buffer.clear()
        if self.session.committed:
            self.log.late_bytes += len(data)
            return
        number = len(self.session.chunks)
        path = self.vendor.new_audio_path()
        path.write_bytes(data)
        seconds = pcm_seconds(len(data), self.log.sample_rate)
        recording = Recording(path, len(data), hashlib.sha256(data).hexdigest(), seconds)
        keep_recording(self.session, number, "pcm", "audio/x-l16", f"stream_{number}.pcm", recording)

    def _append(self, data: bytes) -> None:
        self.log.size += len(data)
        self.log.digest.update(data)
        self.buffer += data
        if len(self.buffer) >= _PIECE_SECONDS * PCM_BYTES_PER_SAMPLE * self.log.sample_rate:
            self.flush()
