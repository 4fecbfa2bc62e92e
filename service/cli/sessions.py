"""`ekabridge session`: asks EkaScribe again about sessions, and exports the audio that is kept of one."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from service.cli.options import Timestamp
from service.cli.runner import json_option, print_found, with_stores
from service.domain.audio.kept import KeptAudio
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


class ExportedAudio(Struct, kw_only=True, frozen=True):
    """The file with a session's audio, and how many chunks are in it."""

    file: str
    bytes: int
    chunks: int


@session.command("export-audio")
@click.argument("session")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, exists=True, writable=True, path_type=Path),
    default=".",
    help="The folder of the new file; by default this one.",
)
@json_option
def session_export_audio(*, session: str, folder: Path, as_json: bool) -> None:
    """Write the audio that ekabridge keeps of SESSION to a file that only you can read.

    It is a ZIP archive with a manifest, or the recording itself if there is one chunk alone. The audit trail
    records the read.
    """

    async def work(stores: "Stores") -> ExportedAudio:
        session_id = SessionId(session)
        owner = await stores.sessions.tenant_of(session_id)
        if owner is None:
            raise NotFound("no such session")
        kept = KeptAudio(stores.kept_audio)
        recording = await kept.open_for_operator(owner, session_id, stores.audit)
        file = folder / recording.file_name
        size = await _write_file(file, kept.read(recording))
        return ExportedAudio(file=str(file), bytes=size, chunks=len(recording.chunks))

    try:
        exported = with_stores(work)
    except OSError as error:
        raise click.ClickException(f"the file could not be written: {error.strerror}") from None
    text = f"{exported.file}: {exported.chunks} chunks, {exported.bytes} bytes"
    print_found(exported, as_json=as_json, text=text)


async def _write_file(file: Path, pieces: AsyncIterator[bytes]) -> int:
    """Write a file that appears under its name only when it is whole; return its size."""
    partial = file.with_name(f"{file.name}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        size = 0
        with os.fdopen(descriptor, "wb") as opened:
            async for piece in pieces:
                size += await asyncio.to_thread(opened.write, piece)
        partial.replace(file)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    return size
