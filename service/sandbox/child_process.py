"""Keeps a child process from outliving its starter.

`python -m service.sandbox.child_process COMMAND …` reads a pipe from the starter. However it ends, by
Ctrl-C, an exception or kill -9, the pipe ends too; then the command is asked to stop, and killed if it stays.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

STOP_SECONDS = 35.0


def start_guarded(
    command: list[str], environment: dict[str, str], log: int | None
) -> subprocess.Popen[bytes]:
    """Start a command that ends with this process; `log` takes its standard error, None shares ours."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and commands
        [sys.executable, "-P", "-m", "service.sandbox.child_process", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=log,
        env=environment,
        # The terminal's Ctrl-C reaches the starter alone, which stops its children in order.
        start_new_session=True,
    )


def stop_guarded(guard: subprocess.Popen[bytes]) -> int:
    """Stop the command, wait until it is gone, and return its status."""
    if guard.stdin:
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.close()
    return guard.wait(STOP_SECONDS + 5)


def main() -> int:
    """Run the command until it ends or standard input does."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603 - given by start_guarded
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())

    def follow_the_pipe() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=follow_the_pipe, daemon=True).start()
    return abs(child.wait())


if __name__ == "__main__":
    sys.exit(main())
