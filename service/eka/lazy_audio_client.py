"""The wire for audio, made for the first upload: its library is loaded when the process already answers."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from service.concurrency.lazy_imports import Late
from service.domain.ports import Audio
from service.eka.http_exchange import VendorAnswer

if TYPE_CHECKING:
    from service.eka.audio_client import AudioClient

# What has to be there for the wire to be made at once.
LIBRARY = "aiohttp"


class AudioSender(Protocol):
    """Sends audio to the vendor."""

    async def send(self, url: str, headers: Mapping[str, str], audio: Audio) -> VendorAnswer:
        """POST all of it and read the whole answer. Raises VendorUnavailable or VendorTimeout."""
        ...


class AudioWay:
    """An AudioClient from the first upload on."""

    def __init__(self, base_url: str, loaded: Callable[[], Awaitable[None]]) -> None:
        """Take the vendor's address, and what to wait for before the wire's library is touched."""
        self._wire = Late(partial(_make, base_url), loaded)

    async def __aenter__(self) -> Self:
        """Use it until the block ends, which closes every connection."""
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._wire.made is not None:
            await self._wire.made.__aexit__()

    async def send(self, url: str, headers: Mapping[str, str], audio: Audio) -> VendorAnswer:
        """Send by the wire."""
        return await (await self._wire.get()).send(url, headers, audio)


def _make(base_url: str) -> "AudioClient":
    from service.eka.audio_client import AudioClient  # noqa: PLC0415 - brings aiohttp

    return AudioClient(base_url)
