"""The pieces of audio that a recording may be cut between, and the interface of what joins them to files."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from service.media.messages import Kind


class Unit(Struct, frozen=True):
    """A packet, or 20 ms of PCM, with its length in samples; a cut never goes through it."""

    data: bytes
    samples: int


class ChunkWriter(Protocol):
    """Joins units to a file that plays by itself."""

    @property
    def kind(self) -> Kind:
        """The kind of file."""
        ...

    @property
    def rate(self) -> int:
        """Samples in a second, in the count of units."""
        ...

    @property
    def preroll_samples(self) -> int:
        """Audio before a cut that the decoder needs in order to be exact after it."""
        ...

    @property
    def fixed_bytes(self) -> int:
        """An upper bound of the file's bytes that do not grow with the units."""
        ...

    def unit_bytes(self, unit: Unit) -> int:
        """Return an upper bound of what a unit adds to the file."""
        ...

    def write(self, units: Sequence[Unit], *, skip: int, trim: int) -> bytes:
        """Return the file; players skip the first `skip` samples and the last `trim`."""
        ...
