"""Computes when to try again, by pure functions of the number of attempts and a random number.

The waits of calls to the vendor are the constants of this module. The waits of deliveries are the setting
`forward_schedule_seconds` (service/settings/settings.py), which `delivery_wait` gets as its `schedule`.

`jitter` is always a random number from 0 to 1 that the caller draws, so that a test can choose it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_JITTER = 0.1
_MAX_RETRY_AFTER_SECONDS = 86_400.0

# A call for a result that is not ready (202) is repeated within seconds once the vendor announced the result;
# an error may be an outage.
_PENDING_SECONDS = (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0)
_MAX_PENDING_SECONDS = 300.0
# Unfiltered calls while a document is undecided, and filtered calls for a document whose verdict is doubted.
_LOOK_SECONDS = (10.0, 20.0, 30.0, 60.0, 120.0, 240.0, 300.0)
_DOUBT_SECONDS = (30.0, 60.0, 120.0, 240.0, 300.0)
# Workers pass over an account while its circuit breaker is open, so a call that was held back needs no longer
# wait of its own.
_MIN_HELD_BACK_SECONDS, _MAX_HELD_BACK_SECONDS = 1.0, 5.0
_ERROR_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Work that met an encryption key which its worker lacks: another worker may have it, and a doctor waits.
MISSING_KEY_SECONDS = 10.0


def jittered(seconds: float, jitter: float) -> float:
    """Spread a wait by at most 10 % to either side, so that a thousand failures do not return as one."""
    return seconds * (1 - _JITTER + 2 * _JITTER * jitter)


def delivery_wait(
    schedule: Sequence[float], used: int, *, retry_after_seconds: float | None, jitter: float
) -> float | None:
    """Seconds until the next attempt at a delivery, or None when the schedule is used up.

    `schedule` is the setting `forward_schedule_seconds`; `used` counts the attempts that count against it,
    from 1.
    """
    if used > len(schedule):
        return None
    return _at_least(retry_after_seconds, jittered(schedule[used - 1], jitter))


def pending_wait(
    attempts: int, jitter: float, *, seconds_after_end: float = 0.0, was_announced: bool = True
) -> float:
    """Seconds until a result that was not ready is asked for again; `attempts` counts from 1.

    A result that no webhook announced is asked for whenever its session's end lies twice as far back: 30 s
    after the end, then 60, 120 and so on. An announced one usually comes within seconds, but an unknown
    status may keep it pending for ever.
    """
    if was_announced:
        wait = max(_stage(_PENDING_SECONDS, attempts), min(seconds_after_end / 10, _MAX_PENDING_SECONDS))
    else:
        wait = min(max(seconds_after_end, _PENDING_SECONDS[0]), _MAX_PENDING_SECONDS)
    return jittered(wait, jitter)


def look_wait(attempts: int, jitter: float) -> float:
    """Seconds until the unfiltered call is made again, while a document is undecided."""
    return jittered(_stage(_LOOK_SECONDS, attempts), jitter)


def doubt_wait(attempts: int, jitter: float) -> float:
    """Seconds until a document is asked for again that the vendor called anything but a plain success."""
    return jittered(_stage(_DOUBT_SECONDS, attempts), jitter)


def _stage(stages: Sequence[float], attempts: int) -> float:
    return stages[min(attempts, len(stages)) - 1]


def error_wait(
    attempts: int,
    *,
    retry_after_seconds: float | None,
    jitter: float,
    max_seconds: float = _ERROR_SECONDS[-1],
) -> float:
    """Seconds until a vendor call that failed is made again; `attempts` counts from 1.

    `max_seconds` bounds the schedule, but not the vendor's Retry-After.
    """
    wait = min(_ERROR_SECONDS[min(attempts, len(_ERROR_SECONDS)) - 1], max_seconds)
    return _at_least(retry_after_seconds, jittered(wait, jitter))


def _at_least(retry_after_seconds: float | None, wait: float) -> float:
    """Apply a Retry-After, which can only lengthen a wait: a server may slow us, but not stop our retries."""
    return max(wait, retry_after_seconds or 0.0)


def held_back_wait(asked_seconds: float | None, *, jitter: float) -> float:
    """Seconds until a call is due again that our own circuit breaker or queue held back; never at once."""
    wait = min(max(asked_seconds or 0.0, _MIN_HELD_BACK_SECONDS), _MAX_HELD_BACK_SECONDS)
    return wait * (1 + _JITTER * jitter)


def read_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header, at most a day; None without one that can be read."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), _MAX_RETRY_AFTER_SECONDS)
