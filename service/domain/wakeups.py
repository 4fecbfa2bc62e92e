"""The port by which a change wakes the workers; a wake-up may be lost, and the sweep finds the row."""

from typing import Protocol

from service.domain.ids import SessionId


class Wakeups(Protocol):
    """Wakes a worker; if a wake-up gets lost, the sweep finds the due rows."""

    def results_due(self, session_id: SessionId) -> None:
        """Wake a worker to fetch results of this session."""
        ...


class PendingCallWakeups(Protocol):
    """Wakes a worker to make pending calls; if a wake-up gets lost, the sweep finds them."""

    def calls_due(self) -> None:
        """Wake a worker to make the pending calls that are due."""
        ...
