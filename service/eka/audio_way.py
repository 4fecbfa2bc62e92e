"""The wire for audio, made for the first upload: its library is loaded when the process already answers."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol, Self

from service.domain.ports import Audio
from service.eka.wire import WireAnswer

if TYPE_CHECKING:
    from service.eka.audio_wire import AudioWire

# What has to be there for the wire to be made at once.
LIBRARY = "aiohttp"


class AudioSender(Protocol):
    """Sends audio to the vendor."""

    async def send(self, url: str, headers: Mapping[str, str], audio: Audio) -> WireAnswer:
        """POST all of it and read the whole answer. Raises VendorUnavailable or VendorTimeout."""
        ...


class AudioWay:
    """An AudioWire from the first upload on."""

    def __init__(self, base_url: str, loaded: Callable[[], Awaitable[None]]) -> None:
        """Take the vendor's address, and what to wait for before the wire's library is touched."""
        self._base_url = base_url
        self._loaded = loaded
        self._wire: AudioWire | None = None

    async def __aenter__(self) -> Self:
        """Use it until the block ends, which closes every connection."""
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._wire is not None:
            await self._wire.__aexit__()

    async def send(self, url: str, headers: Mapping[str, str], audio: Audio) -> WireAnswer:
        """Send by the wire."""
        if self._wire is None:
            await self._loaded()
        return await (self._wire or self._made()).send(url, headers, audio)

    def _made(self) -> "AudioWire":
        from service.eka.audio_wire import AudioWire  # noqa: PLC0415 - brings aiohttp

        self._wire = AudioWire(self._base_url)
        return self._wire
