"""`ekabridge session refresh`: asks EkaScribe again about sessions that are over."""

from datetime import datetime
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from service.cli.options import Timestamp
from service.cli.runner import json_option, print_found, with_stores
from service.domain.errors import NotFound
from service.domain.ids import SessionId, TenantId
from service.domain.results.refreshing import ResultRefresher

if TYPE_CHECKING:  # it brings the HTTP client
    from service.bootstrap.container import Stores

_MAX_SESSIONS = 10_000


class RefreshedSessions(Struct, kw_only=True, frozen=True):
    """The sessions of which EkaScribe is asked again."""

    refreshed: list[str]


class _WithoutNudges:
    """Tells no worker: its sweep finds within a second what is due."""

    def results_due(self, session_id: SessionId) -> None:
        """Do nothing."""


@click.group()
def session() -> None:
    """Work on single sessions."""


@session.command("refresh")
@click.argument("session", required=False)
@click.option("--since", type=Timestamp(), help="Every session since then that ended badly.")
@click.option("--tenant", default=None, help="With --since: only this tenant's.")
@json_option
def session_refresh(
    *, session: str | None, since: datetime | None, tenant: str | None, as_json: bool
) -> None:
    """Ask EkaScribe again about SESSION, or about those since a time that ended badly.

    New documents and new versions are filed and delivered; the same document again changes nothing.
    """
    if (session is None) == (since is None):
        raise click.UsageError("name a SESSION, or a time with --since")

    async def work(stores: "Stores") -> RefreshedSessions:
        refreshing = ResultRefresher(store=stores.result_refresh, wakeups=_WithoutNudges())
        if since is not None:
            found = await stores.result_refresh.ended_badly(
                TenantId(tenant) if tenant else None, since, _MAX_SESSIONS
            )
        else:
            owner = await stores.sessions.tenant_of(SessionId(session or ""))
            if owner is None:
                raise NotFound("no such session")
            found = [(owner, SessionId(session or ""))]
        for tenant_id, session_id in found:
            await refreshing.refresh(tenant_id, session_id, "cli")
        return RefreshedSessions(refreshed=[session_id for _, session_id in found])

    refreshed = with_stores(work)
    lines = [*refreshed.refreshed, f"EkaScribe is asked again about {len(refreshed.refreshed)} sessions"]
    print_found(refreshed, as_json=as_json, text="\n".join(lines))
