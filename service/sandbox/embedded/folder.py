"""The data folder of the embedded servers: where it lies, whose it is, and what a killed guardian left in it.

No existing folder's mode is ever changed. As root the servers run as `nobody`, so root's data lies outside
any home, in a folder made for it, which others may enter (0711) but not read.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

STOP_SECONDS = 20.0
POSTGRES_FOLDER = "postgres"
VALKEY_FOLDER = "valkey"

_POLL_SECONDS = 0.02
_MEMORY = "/dev/shm"  # noqa: S108 - a folder there is used only if it is our own
_MEMORY_BYTES = 2**30
_SOCKET_NAME = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux


class EmbeddedFailed(RuntimeError):
    """The servers could not be started; the message says why, with the end of the log where there is one."""


@contextlib.contextmanager
def claim_folder(data: Path | None, *, temporary: bool) -> Iterator[Path]:
    """Yield the data folder: made where missing, locked for us, without servers that a killed guardian left.

    A temporary one is deleted at the end. Raises EmbeddedFailed if it is unfit or another guardian's.
    """
    if temporary:
        with _temporary_folder(_base(temporary=True)) as folder:
            yield folder
        return
    folder = data.resolve() if data else _base(temporary=False) / "dev"
    _make_folder(folder)
    _check_socket_path(folder)
    with _lock(folder) as is_ours:
        if not is_ours:
            raise EmbeddedFailed(f"the data folder {folder} is in use by another run")
        _stop_leftovers(folder)
        yield folder


@contextlib.contextmanager
def _temporary_folder(base: Path) -> Iterator[Path]:
    folder = base / f"temporary-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        # The base's lock: nobody may sweep a folder that is not yet locked, or that is being deleted.
        with _lock(base, wait=True):
            _sweep(base)
            _make_folder(folder)
            stack.enter_context(_lock(folder))
        try:
            yield folder
        finally:
            with _lock(base, wait=True):
                shutil.rmtree(folder, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Stop and delete what guardians of temporary folders left when they were killed."""
    for folder in base.glob("temporary-*"):
        with _lock(folder) as is_ours:
            if is_ours:
                _stop_leftovers(folder)
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Yield whether the folder's lock is ours. It ends with this process; the servers don't inherit it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    is_ours = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_ours = False
        yield is_ours
    finally:
        os.close(descriptor)


def _bases(*, temporary: bool) -> Iterator[Path]:
    """Folders for our data, best first; for root none inside a home, which stays closed to `nobody`."""
    if temporary and _has_memory_for_files():
        yield Path(f"{_MEMORY}/ekabridge-{os.geteuid()}")
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if os.geteuid() == 0:
        yield Path("/var/lib/ekabridge-embedded")
    elif cache.is_absolute() and sys.platform != "darwin":
        yield cache / "ekabridge"
    else:
        with contextlib.suppress(RuntimeError):  # a user without a home
            yield Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "ekabridge"
    yield Path(f"/var/tmp/ekabridge-{os.geteuid()}")  # noqa: S108 - used only if it is our own


def _has_memory_for_files() -> bool:
    # Copying a database of 300 files took 7 ms there and 360 ms on a virtual disk; a container has but 64 MB.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            memory = os.statvfs(_MEMORY)
            return memory.f_bavail * memory.f_frsize >= _MEMORY_BYTES and not memory.f_flag & os.ST_NOEXEC
    return False


def _base(*, temporary: bool) -> Path:
    """Find the first possible folder that is fit. Raises EmbeddedFailed with what is wrong with each."""
    failures = []
    for base in _bases(temporary=temporary):
        try:
            _make_folder(base)
            _check_socket_path(base / "temporary-00000000")
        except EmbeddedFailed as failure:
            failures.append(str(failure))
        else:
            return base
    raise EmbeddedFailed("; ".join(failures))


def _make_folder(folder: Path) -> None:
    """Make a folder and its missing parents; change none that exists. Raises EmbeddedFailed if unfit."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another guardian was quicker
                path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700)
        status = folder.lstat()
    except OSError as failure:
        raise EmbeddedFailed(f"the folder {folder} cannot be made: {failure.strerror}") from failure
    if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise EmbeddedFailed(f"{folder} must be a folder that its owner, the present user, alone may change")
    if not os.access(folder, os.W_OK):
        raise EmbeddedFailed(f"{folder} is read-only")
    if os.geteuid() == 0 and not is_open_to_all(folder):
        raise EmbeddedFailed(
            f"{folder} is closed to other users, and PostgreSQL refuses to run as root: "
            "choose a folder outside any home, or run as an ordinary user"
        )


def is_open_to_all(path: Path) -> bool:
    """Tell whether any user may enter, or run, the path and every folder above it."""
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


def _check_socket_path(folder: Path) -> None:
    if len(os.fsencode(folder / POSTGRES_FOLDER / _SOCKET_NAME)) > _LONGEST_SOCKET_PATH:
        raise EmbeddedFailed(f"the path {folder} is too long for a Unix socket in it")


# -- Leftovers -------------------------------------------------------------------------------------


def _stop_leftovers(folder: Path) -> None:
    """Stop the servers of this folder whose guardian was killed."""
    for pid_file in (
        *folder.glob(f"{POSTGRES_FOLDER}/*/postmaster.pid"),
        *folder.glob(f"{VALKEY_FOLDER}/valkey.pid"),
    ):
        # Gone meanwhile, half written, or the extra was removed since, which the next step tells.
        with contextlib.suppress(OSError, ValueError, IndexError, ImportError):
            _stop_leftover(int(pid_file.read_text().split()[0]), str(folder))


def _stop_leftover(pid: int, folder: str) -> None:
    import psutil  # noqa: PLC0415 - comes with the extra `embedded`

    try:
        process = psutil.Process(pid)
        if not any(folder in argument for argument in process.cmdline()):
            return  # the number was given to another program since
        for number in (signal.SIGINT, signal.SIGKILL):
            process.send_signal(number)
            if until(
                lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, STOP_SECONDS
            ):
                return
    except psutil.Error:
        return  # it ended, or it is another user's


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll the condition and tell whether it came true within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
