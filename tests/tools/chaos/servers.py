"""A PostgreSQL and a Redis of one run's own, which it may stop, kill and start again."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from service.sandbox.embedded.folder import POSTGRES_FOLDER, STOP_SECONDS, VALKEY_FOLDER, claim_folder
from service.sandbox.embedded.servers import (
    await_postgres,
    end_child,
    make_database,
    own_folder,
    readable_programs,
    servers_account,
    start_postgres,
    start_valkey,
)
from tests.tools.chaos.clocks import Clocks


class ChaosServers:
    """Both servers; PostgreSQL keeps what it has committed, whatever is done to it, Redis keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.clocks = Clocks(folder)
        self._programs = readable_programs(folder)
        self._account = servers_account()
        self._area = folder / POSTGRES_FOLDER
        self._data = self._area / f"data-{self._programs.postgres_version}"
        self._valkey_area = folder / VALKEY_FOLDER
        own_folder(self._area, self._account)
        own_folder(self._valkey_area, self._account)
        make_database(self._programs, self._data, self._account)
        self._postgres: subprocess.Popen[bytes] | None = None
        self._valkey: subprocess.Popen[bytes] | None = None
        self.redis_port = 0
        self.clock_shift_seconds = 0.0  # of PostgreSQL, from one start to the next

    @property
    def socket(self) -> str:
        """Where PostgreSQL listens."""
        return str(self._area / ".s.PGSQL.5432")

    @property
    def database_url(self) -> str:
        """The way to PostgreSQL without a detour."""
        return f"postgresql://postgres@/postgres?host={self._area}"

    def start_database(self) -> None:
        """Start PostgreSQL and wait until it answers."""
        self._postgres = start_postgres(
            self._programs,
            self._data,
            self._account,
            # Its files may lie in memory, but what was committed must outlive an immediate stop.
            durable=True,
            environment=self.clocks.environment("postgresql", self.clock_shift_seconds),
        )
        await_postgres(self._postgres, self._data)

    def shift_clock(self, seconds: float) -> None:
        """Let PostgreSQL's clock jump."""
        self.clock_shift_seconds += seconds
        self.clocks.shift("postgresql", self.clock_shift_seconds)

    def stop_database(self, *, at_once: bool = False) -> None:
        """Stop PostgreSQL; `at_once`: as a crash would, so that it has to recover."""
        if self._postgres is not None:
            number = signal.SIGQUIT if at_once else signal.SIGINT
            end_child(self._postgres, number, grace_seconds=STOP_SECONDS)

    def start_redis(self) -> None:
        """Start an empty Redis, on whatever port is free."""
        self._valkey, self.redis_port = start_valkey(self._programs, self._valkey_area, self._account)

    def stop_redis(self) -> None:
        """kill -9."""
        if self._valkey is not None:
            end_child(self._valkey, signal.SIGKILL, grace_seconds=STOP_SECONDS)


@contextlib.contextmanager
def chaos_servers() -> Iterator[ChaosServers]:
    """Start both servers in a folder that is deleted at the end."""
    with claim_folder(None, temporary=True) as folder:
        servers = ChaosServers(folder)
        try:
            servers.start_database()
            servers.start_redis()
            yield servers
        finally:
            servers.stop_redis()
            servers.stop_database(at_once=True)
