"""`ekabridge tenant account`: a tenant's own account at EkaScribe."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import click

from schemas.tenants import Tenant
from service.cli.runner import json_option, print_found, with_encrypting_stores, with_stores
from service.domain.ids import TenantId
from service.domain.vendor_account_changes import VendorAccounts
from service.domain.vendor_accounts import AccountChange, Credentials

if TYPE_CHECKING:  # it brings the HTTP client
    from service.bootstrap.container import Stores


class _Listed(click.types.StringParamType):
    """Text that an environment variable lists with commas, as WEBHOOK_SECRETS does."""

    envvar_list_splitter: ClassVar[str] = ","


# Each has a variable too: what stands on a command line is seen by everybody on the machine.
_OPTIONS = [
    click.option(
        "--eka-token", envvar="EKABRIDGE_TENANT_EKA_TOKEN", show_envvar=True, help="A long-lived token."
    ),
    click.option(
        "--eka-client-id",
        envvar="EKABRIDGE_TENANT_EKA_CLIENT_ID",
        show_envvar=True,
        help="Or: whom to log in as.",
    ),
    click.option(
        "--eka-client-secret",
        envvar="EKABRIDGE_TENANT_EKA_CLIENT_SECRET",
        show_envvar=True,
        help="Its secret.",
    ),
    click.option(
        "--eka-sharing-key",
        envvar="EKABRIDGE_TENANT_EKA_SHARING_KEY",
        show_envvar=True,
        help="Sent with the client's login.",
    ),
    click.option(
        "--eka-username",
        envvar="EKABRIDGE_TENANT_EKA_USERNAME",
        show_envvar=True,
        help="Or, on premises: the user to log in as.",
    ),
    click.option(
        "--eka-password",
        envvar="EKABRIDGE_TENANT_EKA_PASSWORD",
        show_envvar=True,
        help="The user's password.",
    ),
    click.option(
        "--webhook-secret",
        "webhook_secrets",
        multiple=True,
        type=_Listed(),
        envvar="EKABRIDGE_TENANT_WEBHOOK_SECRETS",
        show_envvar=True,
        help="Signs the account's webhooks; repeatable, all are accepted, the first is registered.",
    ),
]


def account_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of an account, each readable from the environment."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def account_change(
    *,
    eka_token: str | None,
    eka_client_id: str | None,
    eka_client_secret: str | None,
    eka_sharing_key: str | None,
    eka_username: str | None,
    eka_password: str | None,
    webhook_secrets: tuple[str, ...],
) -> AccountChange | None:
    """Read the options; None when none of them was given."""
    credentials = Credentials(
        token=eka_token,
        client_id=eka_client_id,
        client_secret=eka_client_secret,
        sharing_key=eka_sharing_key,
        username=eka_username,
        password=eka_password,
    )
    given = None if credentials == Credentials() else credentials
    secrets = tuple(secret.strip() for secret in webhook_secrets) or None
    return AccountChange(credentials=given, webhook_secrets=secrets) if given or secrets else None


@click.command("account")
@click.argument("tenant")
@account_options
@click.option("--clear", is_flag=True, help="Share the default account again.")
@click.option(
    "--force",
    is_flag=True,
    help="Take another client or user although sessions are not done: it must see the same sessions.",
)
@json_option
def tenant_account(tenant: str, *, clear: bool, force: bool, as_json: bool, **given: Any) -> None:
    """Give a tenant its own EkaScribe account, change it, or show whether it has one.

    An option that is left out changes nothing. Each secret can come from an environment variable instead of
    the command line; several webhook secrets are separated by commas there.
    """
    change = account_change(**given)
    if clear and change is not None:
        raise click.UsageError("--clear goes without an account, also in the environment")

    async def work(stores: "Stores") -> Tenant:
        tenant_id, accounts = TenantId(tenant), VendorAccounts(stores.vendor_accounts)
        if clear:
            return await accounts.clear(tenant_id)
        if change is None:
            return await stores.tenants.get(tenant_id)
        return await accounts.change(tenant_id, change, force=force)

    found = with_stores(work) if change is None else with_encrypting_stores(work)
    kind = "its own EkaScribe account" if found.own_account else "the default EkaScribe account"
    print_found(found, as_json=as_json, text=f"{found.id}  {found.name}  {kind}")
