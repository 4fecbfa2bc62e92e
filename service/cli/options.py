"""Options that several commands share: points in time and intervals."""

from datetime import UTC, datetime
from typing import Any

import click


class Timestamp(click.types.StringParamType):
    """A time as RFC 3339 writes it, read into UTC.

    A time without a zone is refused, because the shell's zone is rarely the server's; with `assume_utc` it is
    read as UTC instead.
    """

    name = "time"

    def __init__(self, *, assume_utc: bool = False) -> None:
        self._assume_utc = assume_utc

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text of an option."""
        try:
            timestamp = datetime.fromisoformat(str(value))
            if timestamp.tzinfo is None and self._assume_utc:
                timestamp = timestamp.replace(tzinfo=UTC)
            if timestamp.tzinfo is None:
                raise ValueError("no zone")
            return timestamp.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time; it needs a time such as 2026-11-21T09:30:00Z", param, ctx)


from_option = click.option("--from", "since", type=Timestamp(), help="From this moment on, RFC 3339.")
to_option = click.option("--to", "before", type=Timestamp(), help="Before this moment, RFC 3339.")


def check_interval(since: datetime | None, before: datetime | None) -> None:
    """Refuse an interval that ends before it begins."""
    if since is not None and before is not None and since > before:
        raise click.UsageError("--from lies after --to")
