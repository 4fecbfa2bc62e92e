"""`ekabridge destination`: where a tenant's documents go, and how."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args

import click
import msgspec

from schemas.destinations import (
    Destination,
    DestinationChange,
    DestinationCreate,
    Format,
    Payload,
    SecretRotation,
)
from schemas.events import SessionEventType
from service.cli.deliveries import delivery_line
from service.cli.options import Timestamp
from service.cli.runner import (
    json_option,
    print_found,
    print_secret,
    settings_for,
    with_encrypting_stores,
    with_stores,
)
from service.domain.audit import Actor
from service.domain.deliveries.recovery import Deliveries
from service.domain.ids import DestinationId, TenantId
from service.settings import STORE

if TYPE_CHECKING:  # it brings the HTTP client
    from service.bootstrap.container import Stores
    from service.domain.destinations.changes import Destinations

T = TypeVar("T")
_MAX_LISTED = 1000


class _Lines(click.types.StringParamType):
    """Text that an environment variable holds in lines, for the commas and spaces in it."""

    envvar_list_splitter: ClassVar[str] = "\n"


_CLEARABLE = ["headers", "timeout_seconds", "rate_per_second", "auth"]
_PEM = click.Path(exists=True, dir_okay=False, path_type=Path)
# A secret can come from a variable or a file: everybody on the machine can read a command line.
_OPTIONS = [
    click.option(
        "--event",
        "events",
        multiple=True,
        type=click.Choice(get_args(SessionEventType)),
        help="Only these; repeatable.",
    ),
    click.option("--template", "templates", multiple=True, help="Only these; repeatable."),
    click.option("--payload", type=click.Choice(get_args(Payload)), help="With the note in it, or without."),
    click.option("--format", type=click.Choice(get_args(Format)), help="Our JSON, or FHIR R4."),
    click.option(
        "--header",
        "headers",
        multiple=True,
        type=_Lines(),
        envvar="EKABRIDGE_DESTINATION_HEADERS",
        show_envvar=True,
        help="'Name: value', sent with every call; repeatable. The variable holds one in each line.",
    ),
    click.option("--timeout-seconds", type=float, help="How long one call may take; 0.1 to 120."),
    click.option("--rate-per-second", type=float, help="At most so many calls a second; 0.01 to 1000."),
    click.option("--oauth2-token-url", "token_url", help="Get a bearer token here for each call."),
    click.option("--oauth2-client-id", "client_id", help="Whom to ask for it as."),
    click.option(
        "--oauth2-client-secret",
        "client_secret",
        envvar="EKABRIDGE_DESTINATION_CLIENT_SECRET",
        show_envvar=True,
        help="Its secret.",
    ),
    click.option("--oauth2-scope", "scope", help="What to ask for."),
    click.option("--certificate", type=_PEM, help="Show this client certificate; a file in PEM."),
    click.option("--private-key", type=_PEM, help="Its key; a file in PEM without a passphrase."),
]


def _call_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def destination() -> None:
    """Where a tenant's documents go."""


@destination.command("add")
@click.argument("tenant")
@click.argument("url")
@_call_options
@click.option("--disabled", is_flag=True, help="Collect what is to be sent, send nothing yet.")
@json_option
def destination_add(tenant: str, url: str, disabled: bool, as_json: bool, **options: Any) -> None:
    """Add a destination; its signing secret is shown this once."""
    fields = {"url": url, "enabled": not disabled} | _given(**options)
    request = _converted(fields, DestinationCreate)
    added = with_encrypting_stores(
        lambda stores: _destinations(stores).add(Actor.operator(TenantId(tenant)), request)
    )
    _print_secret(added, as_json=as_json)


@destination.command("list")
@click.argument("tenant")
@json_option
def destination_list(tenant: str, as_json: bool) -> None:
    """List a tenant's destinations, newest first."""
    found = with_stores(lambda stores: stores.destinations.page(TenantId(tenant), None, _MAX_LISTED))
    lines = [f"{item.id}  {item.url}{_state(item)}" for item in found.items]
    print_found(found, as_json=as_json, text="\n".join(lines))


@destination.command("change")
@click.argument("tenant")
@click.argument("destination")
@click.option("--url", help="Send there from now on, what waits too.")
@_call_options
@click.option("--enabled/--disabled", default=None, help="Turn it on or off.")
@click.option("--clear", multiple=True, type=click.Choice(_CLEARABLE), help="Take this away; repeatable.")
@json_option
def destination_change(
    tenant: str,
    destination: str,
    url: str | None,
    enabled: bool | None,
    clear: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Change what is given and leave the rest."""
    named = {name: value for name, value in (("url", url), ("enabled", enabled)) if value is not None}
    fields = named | _given(**options) | dict.fromkeys(clear)
    _change(tenant, destination, _converted(fields, DestinationChange), "changed", as_json=as_json)


@destination.command("enable")
@click.argument("tenant")
@click.argument("destination")
@json_option
def destination_enable(tenant: str, destination: str, as_json: bool) -> None:
    """Turn a destination on again; what waited for it goes out."""
    _change(tenant, destination, DestinationChange(enabled=True), "on", as_json=as_json)


@destination.command("rotate-secret")
@click.argument("tenant")
@click.argument("destination")
@click.option("--overlap-seconds", type=int, default=86_400, show_default=True, help="Both sign so long.")
@json_option
def destination_rotate(tenant: str, destination: str, overlap_seconds: int, as_json: bool) -> None:
    """Replace the signing secret; the new one is shown this once, the old one signs too for a while."""
    request = _converted({"overlap_seconds": overlap_seconds}, SecretRotation)
    rotated = with_encrypting_stores(
        lambda stores: _destinations(stores).rotate_secret(
            Actor.operator(TenantId(tenant)), DestinationId(destination), request.overlap_seconds
        )
    )
    _print_secret(rotated, as_json=as_json)


@destination.command("remove")
@click.argument("tenant")
@click.argument("destination")
@json_option
def destination_remove(tenant: str, destination: str, as_json: bool) -> None:
    """Take a destination out of use; what still waits for it is given up."""

    async def work(stores: "Stores") -> Destination:
        tenant_id, destination_id = TenantId(tenant), DestinationId(destination)
        found = await stores.destinations.one(tenant_id, destination_id)
        await _destinations(stores).remove(Actor.operator(tenant_id), destination_id)
        return found

    removed = with_stores(work)
    print_found(removed, as_json=as_json, text=f"{removed.id}  removed")


@destination.command("recover")
@click.argument("tenant")
@click.argument("destination")
@click.option(
    "--since", type=Timestamp(assume_utc=True), required=True, help="RFC 3339; without a zone it is UTC."
)
@json_option
def destination_recover(tenant: str, destination: str, since: datetime, *, as_json: bool) -> None:
    """Send again what died at a destination since then, and what it wants of then and never got."""
    found = with_stores(
        lambda stores: Deliveries(stores.deliveries).recover(
            Actor.operator(TenantId(tenant)), DestinationId(destination), since
        )
    )
    text = f"{found.recovered} due again, {found.replayed} that it never got"
    print_found(found, as_json=as_json, text=text)


@destination.command("test")
@click.argument("tenant")
@click.argument("destination")
@json_option
def destination_test(tenant: str, destination: str, *, as_json: bool) -> None:
    """Send a ping to a destination; a worker makes the call."""
    ping = with_encrypting_stores(
        lambda stores: Deliveries(stores.deliveries).test(
            Actor.operator(TenantId(tenant)), DestinationId(destination), datetime.now(UTC)
        )
    )
    print_found(ping, as_json=as_json, text=delivery_line(ping))


def _change(tenant: str, destination: str, change: DestinationChange, said: str, *, as_json: bool) -> None:
    changed = with_encrypting_stores(
        lambda stores: _destinations(stores).change(
            Actor.operator(TenantId(tenant)), DestinationId(destination), change
        )
    )
    print_found(changed, as_json=as_json, text=f"{changed.id}  {said}")


def _print_secret(found: Destination, *, as_json: bool) -> None:
    text = f"{found.id}  {found.url}\n{found.secret}\nKeep it: it is not shown again."
    remedy = f"make a new one: ekabridge destination rotate-secret <tenant> {found.id}"
    print_secret(found, as_json=as_json, text=text, remedy=remedy)


def _destinations(stores: "Stores") -> "Destinations":
    from service.bootstrap.container import make_destinations  # noqa: PLC0415 - brings the HTTP client

    return make_destinations(settings_for(STORE), stores)


def _given(*, headers: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Return what the options give, as the API's fields."""
    auth = _auth(**{name: options.pop(name) for name in (*_OAUTH2, *_TLS)})
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value not in {None, ()}
    }
    if headers:
        parts = [line.partition(":") for line in headers]
        fields["headers"] = {name.strip(): value.strip() for name, _, value in parts}
    return fields | ({"auth": auth} if auth else {})


_OAUTH2 = ("token_url", "client_id", "client_secret", "scope")
_TLS = ("certificate", "private_key")


def _state(item: Destination) -> str:
    if item.enabled:
        return f"  {item.paused_reason}" if item.paused_reason else ""
    return f"  off: {item.paused_reason}"


def _auth(**options: Any) -> dict[str, Any] | None:
    if options["certificate"] or options["private_key"]:
        files = {name: options[name].read_text() for name in _TLS if options[name]}
        return {"type": "mtls"} | files
    # The secret alone, from a variable that is there for other commands, asks for nothing.
    if options["token_url"] or options["client_id"]:
        return {"type": "oauth2"} | {name: options[name] for name in _OAUTH2 if options[name]}
    return None


def _converted(fields: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from None
