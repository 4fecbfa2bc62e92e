"""What /metrics shows, and of which processes.

A process shows what it counts itself. Where several answer behind one port (`serve --workers N`), whichever
is asked must speak for all of them: each writes its figures into files of a folder that they share, and the
one that is asked adds them up.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# prometheus_client looks for it when it is first imported, and then never again.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

BUILD = Gauge(
    "ekabridge_build_info",
    "Always 1: which version runs, as which process.",
    ("version", "process"),
    multiprocess_mode="livemax",
)


def tell_build(process: Literal["serve", "worker"]) -> None:
    """Show this process as running."""
    BUILD.labels(version("ekabridge"), process).set(1)


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Have the processes that are started meanwhile write their figures into one folder."""
    with tempfile.TemporaryDirectory(prefix="ekabridge-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def forget_process(pid: int) -> None:
    """Drop the levels of a process that is gone; what it counted stays counted."""
    mark_process_dead(pid, os.environ[_FOLDER])  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """Return every metric in Prometheus' text format; reads files where several processes share a port."""
    folder = os.environ.get(_FOLDER)
    if folder is None:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
