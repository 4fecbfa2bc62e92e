"""SIGTERM and SIGINT end a process in order, and at the latest after a fixed time."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger()

# A starter such as a shell passes Ctrl-C on to a child that got it from the terminal already: two within this
# time count as one.
_SAME_INTERRUPT_SECONDS = 1.0
_INTERRUPTED = 128 + signal.SIGINT


def on_stop_signal(stop: Callable[[], None], *, seconds: float) -> Callable[[], None]:
    """Call `stop` once at SIGTERM or SIGINT, and end the process so many seconds later, even if it hangs.

    Ending it hard loses nothing: every state is a row and every lease expires. A second SIGTERM changes
    nothing; a second SIGINT ends the process at once. The function that is returned acts as the signal does.
    """
    loop = asyncio.get_running_loop()
    stopped_at: float | None = None

    def stopped() -> None:
        nonlocal stopped_at
        if stopped_at is None:
            stopped_at = loop.time()
            last = threading.Timer(seconds, _exit_hard, [0])  # a thread, because the loop may be what hangs
            last.daemon = True
            last.start()
            stop()

    def interrupted() -> None:
        if stopped_at is not None and loop.time() > stopped_at + _SAME_INTERRUPT_SECONDS:
            _exit_hard(_INTERRUPTED)
        stopped()

    loop.add_signal_handler(signal.SIGTERM, stopped)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    return stopped


def _exit_hard(status: int) -> None:
    log.error("stopped_without_finishing")
    os._exit(status)
