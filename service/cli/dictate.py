"""`ekabridge dictate FILE`: sends a whole recording to a running service."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from schemas.sessions import RecordingCreate
from service.cli.runner import json_option, print_found

if TYPE_CHECKING:  # it brings the HTTP client
    from service.http_client.own_service import OnProgress, OwnService

_ENDED_BADLY = frozenset({"failed", "expired", "cancelled"})


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--url",
    envvar="EKABRIDGE_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    help="The service's address; or set EKABRIDGE_URL.",
)
@click.option(
    "--key",
    envvar="EKABRIDGE_API_KEY",
    required=True,
    help="An API key. Better set EKABRIDGE_API_KEY: others on this machine can read a command line.",
)
@click.option("--reference", help="The EMR's own encounter id.")
@click.option("--template", "templates", multiple=True, help="A template's id; may be given twice.")
@click.option("--model", type=click.Choice(["lite", "pro"]))
@click.option(
    "--session",
    "session_file",
    type=click.File("rb"),
    help="A file with the session's fields as JSON; `-` is standard input.",
)
@click.option("--idempotency-key", help="The same key and file again make no second session.")
@click.option("--wait", "waits", is_flag=True, help="Wait until the documents are there.")
@json_option
def dictate(
    *,
    file: Path,
    url: str,
    key: str,
    reference: str | None,
    templates: tuple[str, ...],
    model: Any,
    session_file: Any,
    idempotency_key: str | None,
    waits: bool,
    as_json: bool,
) -> None:
    """Send the recording FILE to a running service, and print the session's id.

    The service cuts it, sends it to EkaScribe and ends the session. With --wait the exit status is 1 if the
    session fails.
    """
    from service.http_client.own_service import OwnService, ServiceCallFailed  # noqa: PLC0415 - the HTTP client

    fields = {"reference": reference, "templates": list(templates) or None, "model": model}
    session = _session_json(session_file.read() if session_file else b"{}", fields)
    try:
        with OwnService(url, key) as service:
            found = _send(service, file, session, idempotency_key)
            if not as_json:
                click.echo(found["id"])
            if waits:
                found = _await_end(service, found)
    except ServiceCallFailed as error:
        raise click.ClickException(str(error)) from None
    if as_json or waits:
        print_found(found, as_json=as_json, text=_summary(found))
    if found["status"] in _ENDED_BADLY:
        raise SystemExit(1)


def _session_json(given: bytes, fields: dict[str, Any]) -> bytes:
    """Return the session's JSON: the given one, with the options' fields in it."""
    try:
        session = msgspec.json.decode(given, type=dict[str, Any])
        session |= {name: value for name, value in fields.items() if value is not None}
        msgspec.convert(session, RecordingCreate)
    except msgspec.DecodeError as error:
        raise click.ClickException(f"the session cannot be sent: {error}") from None
    return msgspec.json.encode(session)


def _send(service: "OwnService", file: Path, session: bytes, key: str | None) -> dict[str, Any]:
    with file.open("rb") as opened:

        def send(on_progress: "OnProgress") -> dict[str, Any]:
            return service.send_recording(opened, session, key=key, on_progress=on_progress)

        if not sys.stderr.isatty():
            return send(lambda _: None)
        size = os.fstat(opened.fileno()).st_size
        with click.progressbar(length=size, label=f"sending {file.name}", file=sys.stderr) as bar:
            return send(bar.update)


def _await_end(service: "OwnService", session: dict[str, Any]) -> dict[str, Any]:
    """Wait until the session is over: it has all its documents, or it ended badly."""
    while session["completed_at"] is None and session["status"] not in _ENDED_BADLY:
        session = service.await_change(session["id"])
    return session


def _summary(session: dict[str, Any]) -> str:
    lines = [f"{each['id']}  {each['template_id']}  {each['status']}" for each in session["documents"]]
    error = session["error"]
    if error is not None:
        lines.append(f"{error['message']} ({error['code']})")
    return "\n".join([*lines, session["status"]])
