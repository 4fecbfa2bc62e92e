"""Repeats an upload within bounds, which is safe: a repeat overwrites the same file with the same bytes."""

import time
from collections.abc import Awaitable, Callable

import stamina

from service.domain.errors import LONGEST_WAIT_SECONDS, VendorCallHeldBack, VendorUnreachable

_MAX_TRIES = 3
_MAX_SECONDS = 45.0


async def upload_with_retry(
    send: Callable[[], Awaitable[None]], send_again: Callable[[], Awaitable[None]]
) -> None:
    """Make an upload with `send`, then with `send_again` until it succeeds or its tries are used up.

    Raises VendorRefused at once. The final VendorUnreachable says whether any of the tries may have been
    sent.
    """
    began = time.monotonic()
    failure = await _failure_of(send)
    if failure is None:
        return
    maybe_sent = failure.sent
    async for attempt in stamina.retry_context(
        on=_wait_before_repeat,
        attempts=_MAX_TRIES,
        timeout=max(0.0, began + _MAX_SECONDS - time.monotonic()),
        wait_initial=0.2,
        wait_max=3.0,
    ):
        with attempt:
            if attempt.num > 1:
                failure = await _failure_of(send_again)
            if failure is not None:
                failure.sent = maybe_sent = maybe_sent or failure.sent
                raise failure


async def _failure_of(send: Callable[[], Awaitable[None]]) -> VendorUnreachable | None:
    try:
        await send()
    except VendorUnreachable as error:
        return error
    return None


def _wait_before_repeat(error: Exception) -> bool | float:
    """Return whether to repeat an upload, or the wait in seconds that the vendor asked for."""
    if not isinstance(error, VendorUnreachable) or isinstance(error, VendorCallHeldBack):
        return False
    wait = error.retry_after_seconds
    if wait is None:
        return True
    return wait if wait <= LONGEST_WAIT_SECONDS else False
