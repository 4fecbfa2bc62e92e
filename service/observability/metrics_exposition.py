"""Exposes all metrics in Prometheus' text format, of one process or of all processes behind one port.

The metrics themselves are in the modules that count, such as service/store/lifecycle_metrics.py.

A single process shows its own figures. With `serve --workers N` a scrape reaches any one process, which must
show the sum of all: each process writes its figures into files of a shared folder, and the scraped one adds
them up.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# prometheus_client reads this variable once, when it is first imported.
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
    """Let processes that start inside the block write their figures into one folder."""
    with tempfile.TemporaryDirectory(prefix="ekabridge-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def forget_process(pid: int) -> None:
    """Drop the gauges of a process that has ended; its counters stay in the sum."""
    mark_process_dead(pid, os.environ[_FOLDER])  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """Return every metric in Prometheus' text format; reads files where several processes share a port."""
    folder = os.environ.get(_FOLDER)
    if folder is None:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
