"""Decides where a recording is cut, and keeps the audio between two cuts in memory: one chunk at most."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from service.media.levels import Levels
from service.media.units import ChunkWriter, Unit

# A cut lies in the last silence of these seconds before the limit.
_SEARCH_SECONDS = 20.0
# A chunk is not shorter than this, or than a part of the limit: the vendor hears little in a snippet.
_MIN_SECONDS = 1.0
_MIN_PART = 1 / 8


class Piece(Struct, frozen=True):
    """A chunk with its place in the recording, in seconds."""

    start_seconds: float
    seconds: float
    data: bytes


class Cutter:
    """Collects units, and writes a chunk as soon as it is clear where the next cut must be."""

    def __init__(
        self, writer: ChunkWriter, levels: Levels, *, max_seconds: float, max_bytes: int, skip: int
    ) -> None:
        """`skip`: samples at the beginning of the first unit that players skip."""
        self._writer = writer
        self._levels = levels
        self._max_samples = int(max_seconds * writer.rate)
        self._max_bytes = max_bytes - writer.fixed_bytes
        self._min_samples = int(min(_MIN_SECONDS, max_seconds * _MIN_PART) * writer.rate)
        self._first_skip = self._skip = skip
        self._preroll: list[Unit] = []
        self._pending: list[Unit] = []
        self._samples = self._bytes = 0
        # How many pending units fit into a chunk, known as soon as one does not; the samples behind them.
        self._fitting: int | None = None
        self._following = 0
        # The start of the pending units, counted from the first sample of the first unit.
        self._position = 0

    def add(self, unit: Unit) -> Iterator[Piece]:
        """Append a unit; yield the chunk that it completes."""
        self._append(unit)
        # The audio after the limit shows whether there is silence, and whether much would be left.
        while self._fitting is not None and self._following >= self._min_samples:
            yield self._cut(self._best_cut(self._fitting, is_end=False), trim=0)

    def finish(self, *, trim: int) -> Iterator[Piece]:
        """Yield what is left; players skip the last `trim` samples."""
        while self._fitting is not None:
            yield self._cut(self._best_cut(self._fitting, is_end=True), trim=0)
        if self._pending:
            yield self._cut(len(self._pending), trim=trim)

    def _append(self, unit: Unit) -> None:
        self._pending.append(unit)
        self._samples += unit.samples
        self._bytes += self._writer.unit_bytes(unit)
        is_too_much = self._bytes > self._max_bytes or self._samples > self._max_samples
        # One unit always makes a chunk; survey.py sees to it that no unit is larger than a chunk.
        if self._fitting is None and is_too_much and len(self._pending) > 1:
            self._fitting = len(self._pending) - 1
        if self._fitting is not None:
            self._following += unit.samples

    def _best_cut(self, fitting: int, *, is_end: bool) -> int:
        """Return the number of units up to the last silence that is possible, or else as many as fit."""
        ends = _running_totals(self._pending)
        earliest = max(self._min_samples, ends[fitting - 1] - int(_SEARCH_SECONDS * self._writer.rate))
        latest = min(ends[fitting - 1], ends[-1] - self._min_samples) if is_end else ends[fitting - 1]
        possible = [number for number in range(1, fitting + 1) if earliest <= ends[number - 1] <= latest]
        moments = [self._seconds(self._position + ends[number - 1]) for number in possible]
        silent = [
            number
            for number, is_silent in zip(possible, self._levels.silences(moments), strict=True)
            if is_silent
        ]
        return max(silent or possible or [fitting])

    def _cut(self, number: int, *, trim: int) -> Piece:
        units, rest = self._pending[:number], self._pending[number:]
        data = self._writer.write([*self._preroll, *units], skip=self._skip, trim=trim)
        start = self._position
        self._position += sum(unit.samples for unit in units)
        begin, end = max(start, self._first_skip), self._position - trim
        self._levels.forget_until(self._seconds(end))
        self._restart([*self._preroll, *units], rest)
        return Piece(self._seconds(begin), (end - begin) / self._writer.rate, data)

    def _restart(self, written: list[Unit], rest: list[Unit]) -> None:
        """Begin the next chunk with the pre-roll from the last one and the units that were not written."""
        self._preroll = self._preroll_of(written)
        self._samples = self._skip = sum(unit.samples for unit in self._preroll)
        self._bytes = sum(map(self._writer.unit_bytes, self._preroll))
        self._pending, self._fitting, self._following = [], None, 0
        for unit in rest:
            self._append(unit)

    def _preroll_of(self, written: list[Unit]) -> list[Unit]:
        """Return the last units with the samples of a pre-roll, which may fill half of a chunk at most."""
        first, samples, size = len(written), 0, 0
        while first > 0 and samples < self._writer.preroll_samples:
            unit = written[first - 1]
            samples += unit.samples
            size += self._writer.unit_bytes(unit)
            if samples > self._max_samples // 2 or size > self._max_bytes // 2:
                break
            first -= 1
        return written[first:]

    def _seconds(self, position: int) -> float:
        return max(0, position - self._first_skip) / self._writer.rate


def _running_totals(units: Sequence[Unit]) -> list[int]:
    total, totals = 0, []
    for unit in units:
        total += unit.samples
        totals.append(total)
    return totals
