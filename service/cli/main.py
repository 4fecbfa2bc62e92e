"""The command line: `ekabridge`. Each command reads the settings that it needs and says all that is wrong."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from service.cli.api_keys import key
from service.cli.audit import audit
from service.cli.deliveries import delivery
from service.cli.destinations import destination
from service.cli.dictate import dictate
from service.cli.encryption_keys import encryption
from service.cli.ledger import ledger
from service.cli.runner import run, settings_for, with_unchecked_stores
from service.cli.sessions import session
from service.cli.tenants import tenant
from service.cli.webhook_subscriptions import webhook
from service.observability.logging import configure_logs
from service.settings import DATABASE, SERVICE, WORKER

_SERVICE_APP = "service.app:app_from_environment"


def main() -> None:
    """Run the command that was asked for."""
    cli(prog_name="ekabridge")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ekabridge")
def cli() -> None:
    """The gateway between hospital software and EkaScribe."""


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes.")
def serve(host: str, port: int, workers: int) -> None:
    """Run the HTTP service."""
    settings = settings_for(SERVICE)
    if settings.public_url is None:
        # Child processes read the environment again: tell them what we would say ourselves.
        shown = f"[{host}]" if ":" in host else host
        os.environ["EKABRIDGE_PUBLIC_URL"] = f"http://{shown}:{port}"
    _check_keys()
    from service.http_server import Supervisor, listen  # noqa: PLC0415 - the other commands start without a server
    from service.http_server import serve as run_server  # noqa: PLC0415

    with _told_if_taken(host, port):
        listening = listen(host, port)
    seconds = settings.shutdown_seconds
    if workers > 1:
        supervisor = Supervisor(_SERVICE_APP, listening, workers=workers, shutdown_seconds=seconds)
        asyncio.run(supervisor.run())
    else:
        run_server(_SERVICE_APP, listening, shutdown_seconds=seconds)


@contextlib.contextmanager
def _told_if_taken(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None


@cli.command()
@click.option("--host", default="0.0.0.0", show_default=True)  # noqa: S104 - the kubelet asks from outside
@click.option(
    "--port", default=8081, show_default=True, type=click.IntRange(1, 65535), help="Health and metrics."
)
def worker(host: str, port: int) -> None:
    """Fetch results, forward documents, sweep."""
    settings = settings_for(WORKER)
    _check_keys()
    import uvloop  # noqa: PLC0415 - the other commands start without it

    from service.http_server import listen  # noqa: PLC0415
    from service.worker import run_worker  # noqa: PLC0415

    with _told_if_taken(host, port):
        listening = listen(host, port)
    uvloop.run(run_worker(settings, listening))


@cli.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 unless the schema is new enough.")
@click.option(
    "--wait",
    "wait_seconds",
    default=0.0,
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="With --check: how long to wait for that.",
)
def migrate(check: bool, wait_seconds: float) -> None:
    """Bring the database to the newest schema."""
    if wait_seconds and not check:
        raise click.UsageError("--wait goes with --check")
    settings = settings_for(DATABASE)
    from service.store.migrate import check_schema  # noqa: PLC0415 - brings SQLAlchemy
    from service.store.migrate import migrate as run_migrations  # noqa: PLC0415

    if check:
        cache = settings.database_statement_cache_size
        revision = run(lambda: check_schema(settings.database_url, cache, wait_seconds, click.echo))
    else:
        revision = run(lambda: run_migrations(settings.database_url))
    click.echo(f"the database is at revision {revision}")


cli.add_command(tenant)
cli.add_command(ledger)
cli.add_command(audit)
cli.add_command(encryption)
cli.add_command(webhook)
cli.add_command(key)
cli.add_command(destination)
cli.add_command(delivery)
cli.add_command(session)
cli.add_command(dictate)


def _check_keys() -> None:
    """Say at the start, in one sentence, that the encryption keys are not this database's."""
    from service.bootstrap.container import check_at_start  # noqa: PLC0415 - brings the HTTP client

    with_unchecked_stores(check_at_start)


@cli.command()
def doctor() -> None:
    """Check everything that a first installation can get wrong."""
    from service.diagnostics.doctor import examine  # noqa: PLC0415 - brings the HTTP client
    from service.diagnostics.environment import Finding, Note  # noqa: PLC0415 - the same

    configure_logs("error")

    def report(name: str, found: Finding) -> None:
        if found is None:
            click.echo(f"ok    {name}")
        elif isinstance(found, Note):
            click.echo(f"note  {name}: {found.text}")
        else:
            click.echo(f"FAIL  {name}: {found}")

    if not asyncio.run(examine(os.environ, report)):
        raise SystemExit(1)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8090, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--character",
    default="hosted",
    show_default=True,
    type=click.Choice(["hosted", "onprem-2026-07", "onprem-2026-08"]),
    help="Which of the vendor's servers it is.",
)
def sandbox(host: str, port: int, character: str) -> None:
    """Run a stand-in EkaScribe on loopback, for development and tests."""
    from service.sandbox.serving import run_sandbox  # noqa: PLC0415 - production never loads the sandbox

    try:
        run_sandbox(host, port, character)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@cli.command()
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--data", type=click.Path(path_type=Path), help="Where data is kept; by default in your cache.")
def dev(port: int, data: Path | None) -> None:
    """Run everything on this machine with nothing installed; Ctrl-C stops all of it."""
    from service.sandbox.dev import run_dev  # noqa: PLC0415 - production never loads the sandbox

    raise SystemExit(run_dev(port, data))


@cli.command()
@click.option("--stream", is_flag=True, help="Stream the audio while it is spoken.")
def demo(stream: bool) -> None:
    """Play one dictation from its start to the document in an EMR's hands."""
    from service.sandbox.demo import run_demo  # noqa: PLC0415 - production never loads the sandbox

    raise SystemExit(run_demo(live=stream))


if __name__ == "__main__":
    main()
