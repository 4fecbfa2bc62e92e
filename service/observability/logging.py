"""Structured logs: one JSON object per line, with ids, sizes and classes, never content.

No header, body, path or query is ever passed to a logger, so there is no list of forbidden names to keep;
tests/e2e/test_privacy.py holds that.
"""

import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec
import structlog

from service.observability.tracing import add_trace_ids

# Libraries whose messages concern themselves (an address in use, a bad setting), never a request.
_LOGGERS_WITH_SAFE_MESSAGES = frozenset({"uvicorn.error"})


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
        # A cached logger would keep the level and the file of its first event, to save half a microsecond.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LibraryFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _encode(event: dict[str, Any], **_: Any) -> bytes:
    try:
        return msgspec.json.encode(event, enc_hook=_class_of)
    except Exception:  # noqa: BLE001 - logging must never fail the work that it describes
        plain = {_readable(name): _readable(value) for name, value in event.items()}
        return msgspec.json.encode(plain)


def _class_of(value: Any) -> str:
    # str(value) may quote content, as the message of an error does.
    return type(value).__name__


def _readable(value: Any) -> Any:
    """Return a value that JSON can hold; a lone surrogate, for example, is written as an escape."""
    if isinstance(value, str):
        return value.encode("ascii", "backslashreplace").decode()
    return value if value is None or isinstance(value, bool | int | float) else _class_of(value)


class _LibraryFormatter(logging.Formatter):
    """Logs the library and the error's class; the message may quote a request, so it is left out."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"event": "library", "logger": record.name, "level": record.levelname.lower()}
        if record.exc_info and record.exc_info[0]:
            entry["error"] = record.exc_info[0].__name__
        elif record.name in _LOGGERS_WITH_SAFE_MESSAGES and "Traceback" not in (
            message := record.getMessage()
        ):
            entry["message"] = message
        return msgspec.json.encode(entry).decode()


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Describe an unexpected error for the log: its class and where, not its message.

    A driver's or a parser's message may quote the value that it failed on, and that may be a patient's.
    """
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}" for frame in frames]
    return {"error": type(error).__name__, "where": where}
