"""Real PostgreSQL and a real Redis-compatible server out of wheels, for `dev`, `demo` and the tests.

A guardian (`python -m service.sandbox.embedded.api`) owns both servers and reads a pipe from the process
that asked for them. However that one ends, by Ctrl-C, an exception or kill -9, its end of the pipe closes and
the guardian stops the servers. PostgreSQL listens on a Unix socket in a private folder, Valkey on 127.0.0.1.
"""

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from service.sandbox.embedded.folder import STOP_SECONDS, EmbeddedFailed, claim_folder
from service.sandbox.embedded.servers import EmbeddedUnavailable, Servers, end_child, running_servers

__all__ = ["Embedded", "EmbeddedFailed", "EmbeddedUnavailable", "EmbeddedUrls", "start_embedded"]


@dataclass(frozen=True)
class EmbeddedUrls:
    """Where the servers answer.

    `database_url` is `postgresql://postgres@/postgres?host=FOLDER`: asyncpg takes it as it is, SQLAlchemy
    with the scheme `postgresql+asyncpg`. `redis_url` is `redis://127.0.0.1:PORT/0`, of 64 logical databases.
    """

    database_url: str
    redis_url: str


class Embedded:
    """A running pair of servers: `urls`, data `folder`, and the `pids` of guardian, PostgreSQL, Valkey."""

    def __init__(
        self, guardian: subprocess.Popen[bytes], urls: EmbeddedUrls, folder: Path, pids: tuple[int, ...]
    ) -> None:
        self.urls = urls
        self.folder = folder
        self.pids = pids
        self._guardian = guardian

    def stop(self) -> None:
        """Stop both servers and wait until they are gone; calling it again does nothing."""
        _end_guardian(self._guardian)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def start_embedded(data: Path | None = None, *, temporary: bool = False) -> Embedded:
    """Start PostgreSQL and Valkey and return when both answer.

    PostgreSQL's data is kept in `data`, by default in a folder of the user's cache, from one run to the next.
    With `temporary` it is a throw-away folder, tuned for tests and deleted at the end. Valkey keeps nothing.

    They end with this process, and with its children that were forked without exec, which hold the pipe, too.

    Raises EmbeddedUnavailable when the extra `embedded` is not installed, EmbeddedFailed when a server does
    not start or the data folder is in use, ValueError for `data` together with `temporary`.
    """
    if data is not None and temporary:
        raise ValueError("temporary servers choose their own data folder")
    options = ["--temporary"] if temporary else ["--data", str(data.absolute())] if data is not None else []
    guardian = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        # -P: the guardian is this installation's, whatever lies in the current folder.
        [sys.executable, "-P", "-m", "service.sandbox.embedded.api", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The terminal's Ctrl-C reaches us alone: we stop what uses the servers before the servers.
        start_new_session=True,
    )
    try:
        return _greet(guardian)
    except BaseException:
        _end_guardian(guardian)
        raise


def _greet(guardian: subprocess.Popen[bytes]) -> Embedded:
    """Read the guardian's one line. It comes within the guardian's own time limits, or the pipe ends."""
    line = guardian.stdout.readline() if guardian.stdout else b""
    if not line:
        raise EmbeddedFailed("the embedded servers' guardian ended without a word")
    answer = json.loads(line)
    if "error" in answer:
        raise (EmbeddedUnavailable if answer["unavailable"] else EmbeddedFailed)(answer["error"])
    urls = EmbeddedUrls(answer["database_url"], answer["redis_url"])
    return Embedded(guardian, urls, Path(answer["folder"]), tuple(answer["pids"]))


def _end_guardian(guardian: subprocess.Popen[bytes]) -> None:
    for pipe in (guardian.stdin, guardian.stdout):
        if pipe:
            pipe.close()
    end_child(guardian, signal.SIGTERM, grace_seconds=3 * STOP_SECONDS)


# -- The guardian ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _stop_signals() -> Iterator[int]:
    """Yield a pipe that turns readable at a stop signal: none may cut a start or a stop short."""
    reader, writer = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(writer, b"."))
    yield reader


def _wait_for_the_end(servers: Servers, stop_signals: int) -> None:
    """Return at EOF on standard input or a stop signal; raise EmbeddedFailed if a server dies by itself."""
    stdin = sys.stdin.fileno()
    while servers.are_alive():
        ready, _, _ = select.select([stdin, stop_signals], [], [], 1.0)
        if stop_signals in ready or (stdin in ready and not os.read(stdin, 4096)):
            return
    raise EmbeddedFailed("an embedded server ended by itself")


def _say(line: dict[str, object]) -> None:
    # The starter may have ended already; then standard input has ended, too.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(line).encode() + b"\n")


def _guard(data: Path | None, *, temporary: bool) -> None:
    with (
        _stop_signals() as stop_signals,
        claim_folder(data, temporary=temporary) as folder,
        running_servers(folder, durable=not temporary) as servers,
    ):
        _say(
            {
                "database_url": f"postgresql://postgres@/postgres?host={quote(str(servers.postgres_socket_folder))}",
                "redis_url": f"redis://127.0.0.1:{servers.valkey_port}/0",
                "folder": str(folder),
                "pids": [os.getpid(), servers.postgres.pid, servers.valkey.pid],
            }
        )
        _wait_for_the_end(servers, stop_signals)


def main() -> int:
    """Run both servers until EOF or a stop signal, after one line of JSON that says where they are."""
    parser = argparse.ArgumentParser(prog="python -m service.sandbox.embedded.api", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", type=Path, help="folder of the data; by default one in the user's cache")
    where.add_argument("--temporary", action="store_true", help="a throw-away folder, deleted at the end")
    options = parser.parse_args()
    os.umask(0o066)  # root's folders must let the servers' account through
    try:
        _guard(options.data, temporary=options.temporary)
    except (EmbeddedUnavailable, EmbeddedFailed, OSError) as failure:
        _say({"error": str(failure), "unavailable": isinstance(failure, EmbeddedUnavailable)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
