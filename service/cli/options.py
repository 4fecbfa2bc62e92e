"""Options that several commands share: points in time and intervals."""

from datetime import UTC, datetime
from typing import Any

import click


class Timestamp(click.types.StringParamType):
    """A time as RFC 3339 writes it; one without a zone is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        try:
            read = datetime.fromisoformat(str(value))
            return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time such as 2026-11-20T08:00:00Z", param, ctx)


def read_timestamp(context: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """Read an option's time, which needs a zone; None if it was not given."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("needs a time such as 2026-11-21T09:30:00Z", context, option) from None


from_option = click.option("--from", "since", callback=read_timestamp, help="From this moment on, RFC 3339.")
to_option = click.option("--to", "before", callback=read_timestamp, help="Before this moment, RFC 3339.")


def check_interval(since: datetime | None, before: datetime | None) -> None:
    """Refuse an interval that ends before it begins."""
    if since is not None and before is not None and since > before:
        raise click.UsageError("--from lies after --to")
