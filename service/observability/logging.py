"""Structured logs: one JSON object a line, ids, sizes and classes, never content."""

import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec
import structlog

from service.observability.tracing import add_trace_ids

# Libraries whose messages are about themselves (an address in use, a bad setting), never about a request.
_SPEAKS_OF_ITSELF = frozenset({"uvicorn.error"})


def configure_logs(level: str) -> None:
    """Send our events, and the warnings of libraries, to standard error as JSON."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_trace_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_encode),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
        # Kept, a logger would hold to the level and the file of its first event, to spare half a microsecond.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LibraryFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _encode(event: dict[str, Any], **_: Any) -> bytes:
    try:
        return msgspec.json.encode(event, enc_hook=_class_of)
    except Exception:  # noqa: BLE001 - to tell of an event must never fail what is told of
        plain = {_readable(name): _readable(value) for name, value in event.items()}
        return msgspec.json.encode(plain)


def _class_of(value: Any) -> str:
    # Its own words may quote content: an error's do.
    return type(value).__name__


def _readable(value: Any) -> Any:
    """Write what JSON cannot say, half a character say, as well as can be."""
    if isinstance(value, str):
        return value.encode("ascii", "backslashreplace").decode()
    return value if value is None or isinstance(value, bool | int | float) else _class_of(value)


class _LibraryFormatter(logging.Formatter):
    """Names the library and the error's class; a message may quote what it stumbled over."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"event": "library", "logger": record.name, "level": record.levelname.lower()}
        if record.exc_info and record.exc_info[0]:
            entry["error"] = record.exc_info[0].__name__
        elif record.name in _SPEAKS_OF_ITSELF and "Traceback" not in (message := record.getMessage()):
            entry["message"] = message
        return msgspec.json.encode(entry).decode()


def failure(error: BaseException) -> dict[str, Any]:
    """Describe an unexpected error for the log: its class and where, not its message.

    A driver's or a parser's message may quote the value it stumbled over, and that may be a patient's.
    """
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}" for frame in frames]
    return {"error": type(error).__name__, "where": where}
