"""A tenant's own account: sealed, bound to its tenant, and not taken away while sessions need it."""

from __future__ import annotations

import asyncio

import pytest

from schemas.tenants import SessionDefaults
from service.domain.api_keys.changes import ApiKeys
from service.domain.errors import AccountInUse, InvalidRequest, NotFound
from service.domain.ids import Account, TenantId
from service.domain.tenants.changes import Tenants
from service.domain.vendor_accounts import AccountChange, Credentials, VendorAccount
from service.store.encryption import DecryptionError
from tests.support.bridge import principal_of
from tests.support.makers import NOTE, make_lease
from tests.support.store_house import House

OWN = VendorAccount(
    credentials=Credentials(client_id="hospital", client_secret="hush-hush"), webhook_secrets=("psst", "old")
)
OWN_CHANGE = AccountChange(credentials=OWN.credentials, webhook_secrets=OWN.webhook_secrets)
UNKNOWN = TenantId("ten_ffffffffffffffffffffffff")


def change_to(**credentials: str) -> AccountChange:
    return AccountChange(credentials=Credentials(**credentials))


async def hospital(house: House) -> TenantId:
    """A tenant with an account of its own."""
    return TenantId((await Tenants(house.stores.tenants).add("hospital", SessionDefaults(), OWN_CHANGE)).id)


async def own_session(house: House, tenant_id: TenantId, **fields: object) -> str:
    return await house.insert(tenant_id=tenant_id, account=Account(tenant_id), **fields)


async def test_it_is_found_again_and_nobody_reads_it_in_the_database(house: House) -> None:
    tenant_id = await hospital(house)
    assert await house.stores.vendor_accounts.own(tenant_id) == OWN
    assert await house.stores.vendor_accounts.own(house.tenant_id) is None
    assert await house.stores.vendor_accounts.own(UNKNOWN) is None
    encrypted = await house.connection.fetchval("SELECT account_sealed FROM tenants WHERE id = $1", tenant_id)
    for secret in (b"hush-hush", b"psst", b"hospital"):
        assert secret not in encrypted


async def test_a_user_s_login_is_encrypted_as_well(house: House) -> None:
    login = Credentials(username="ward seven", password="pässword one")
    tenant_id = house.tenant_id
    await house.accounts.change(tenant_id, AccountChange(credentials=login), force=False)
    assert await house.stores.vendor_accounts.own(tenant_id) == VendorAccount(credentials=login)
    encrypted = await house.connection.fetchval("SELECT account_sealed FROM tenants WHERE id = $1", tenant_id)
    for secret in ("ward seven", "pässword", "ssword one"):
        assert secret.encode() not in encrypted


async def test_it_opens_for_its_own_tenant_only(house: House) -> None:
    tenant_id = await hospital(house)
    await house.connection.execute(
        "UPDATE tenants SET account_sealed = (SELECT account_sealed FROM tenants WHERE id = $1) "
        "WHERE id = $2",
        tenant_id,
        house.tenant_id,
    )
    with pytest.raises(DecryptionError):
        await house.stores.vendor_accounts.own(house.tenant_id)


async def test_tenants_say_whether_they_have_one_and_keys_whose_they_are(house: House) -> None:
    tenant_id = await hospital(house)
    listed = {each.id: each.own_account for each in await house.stores.tenants.list_tenants()}
    assert listed == {house.tenant_id: False, tenant_id: True}
    for tenant, account in ((tenant_id, tenant_id), (house.tenant_id, "default")):
        key = await ApiKeys(house.stores.api_keys).add(tenant, "emr")
        principal = await principal_of(house.stores.api_keys, str(key.key))
        assert principal is not None
        assert principal.account == account


async def test_a_change_leaves_the_rest_and_forgets_the_old_tokens(house: House) -> None:
    tenant_id = await hospital(house)
    account, lease = Account(tenant_id), make_lease()
    await house.stores.vendor_tokens.lease(account, lease, seconds=30, generation=0)
    await house.stores.vendor_tokens.store(account, lease, b"{}")
    assert (await house.stores.vendor_tokens.read(account)).tokens == b"{}"

    changed = await house.accounts.change(tenant_id, AccountChange(webhook_secrets=("new",)), force=False)
    assert changed.own_account
    assert await house.stores.vendor_accounts.own(tenant_id) == VendorAccount(
        credentials=OWN.credentials, webhook_secrets=("new",)
    )
    state = await house.stores.vendor_tokens.read(account)
    # The generation stays, so that no replica takes a new token for an older one.
    assert (state.tokens, state.generation) == (None, 1)


async def test_a_tenant_gets_one_later_and_gives_it_back(house: House) -> None:
    tenant_id = house.tenant_id
    assert (await house.accounts.change(tenant_id, change_to(token="t"), force=False)).own_account
    assert (await house.stores.vendor_accounts.own(tenant_id)) == VendorAccount(
        credentials=Credentials(token="t")
    )
    assert not (await house.accounts.clear(tenant_id)).own_account
    assert await house.stores.vendor_accounts.own(tenant_id) is None
    assert not (await house.accounts.clear(tenant_id)).own_account


async def test_mistakes_change_nothing(house: House) -> None:
    tenant_id = await hospital(house)
    with pytest.raises(NotFound):
        await house.accounts.change(UNKNOWN, change_to(token="t"), force=False)
    with pytest.raises(NotFound):
        await house.accounts.clear(UNKNOWN)
    with pytest.raises(InvalidRequest):
        await house.accounts.change(tenant_id, change_to(token="t", client_id="i"), force=False)
    with pytest.raises(InvalidRequest):
        await house.accounts.change(house.tenant_id, AccountChange(webhook_secrets=("s",)), force=False)
    assert await house.stores.vendor_accounts.own(tenant_id) == OWN
    assert await house.stores.vendor_accounts.own(house.tenant_id) is None


@pytest.mark.parametrize("status", ["created", "recording", "processing"])
async def test_it_is_not_taken_away_from_a_session_that_runs(house: House, status: str) -> None:
    tenant_id = await hospital(house)
    session_id = await own_session(house, tenant_id)
    await house.connection.execute(
        "UPDATE sessions SET status = $2, owed = NULL, owed_next_at = NULL, owed_lease = NULL WHERE id = $1",
        session_id,
        status,
    )
    with pytest.raises(AccountInUse):
        await house.accounts.clear(tenant_id)
    assert await house.stores.vendor_accounts.own(tenant_id) == OWN
    await house.connection.execute("UPDATE sessions SET status = 'completed' WHERE id = $1", session_id)
    await house.accounts.clear(tenant_id)
    assert await house.stores.vendor_accounts.own(tenant_id) is None


async def test_nor_while_the_vendor_is_owed_a_call_or_a_document_is_awaited(house: House) -> None:
    tenant_id = await hospital(house)
    session_id = await own_session(house, tenant_id)
    await house.connection.execute("UPDATE sessions SET status = 'completed' WHERE id = $1", session_id)
    with pytest.raises(AccountInUse):
        await house.accounts.clear(tenant_id)
    await house.connection.execute(
        "UPDATE sessions SET owed = NULL, owed_next_at = NULL WHERE id = $1", session_id
    )
    await house.connection.execute(
        "INSERT INTO fetches (tenant_id, session_id, template_id, next_at) VALUES ($1, $2, $3, now())",
        tenant_id,
        session_id,
        NOTE,
    )
    with pytest.raises(AccountInUse):
        await house.accounts.clear(tenant_id)
    await house.connection.execute(
        "UPDATE fetches SET status = 'settled', next_at = NULL WHERE session_id = $1", session_id
    )
    await house.accounts.clear(tenant_id)


async def test_sessions_at_the_default_account_and_of_others_do_not_hold_it(house: House) -> None:
    tenant_id = await hospital(house)
    await house.insert(tenant_id=tenant_id)
    other = await hospital(house)
    await own_session(house, other)
    await house.accounts.clear(tenant_id)
    with pytest.raises(AccountInUse):
        await house.accounts.clear(other)


async def test_another_client_is_refused_while_sessions_run_and_a_new_secret_is_not(house: House) -> None:
    tenant_id = await hospital(house)
    await own_session(house, tenant_id)
    rotated = change_to(client_id="hospital", client_secret="new")
    await house.accounts.change(tenant_id, rotated, force=False)
    for other in (change_to(client_id="another", client_secret="s"), change_to(token="t")):
        with pytest.raises(AccountInUse):
            await house.accounts.change(tenant_id, other, force=False)
        own = await house.stores.vendor_accounts.own(tenant_id)
        assert own is not None
        assert own.credentials == rotated.credentials
    await house.accounts.change(tenant_id, change_to(token="t"), force=True)
    assert (await house.stores.vendor_accounts.own(tenant_id)) == VendorAccount(
        credentials=Credentials(token="t"), webhook_secrets=OWN.webhook_secrets
    )


async def test_another_user_is_refused_while_sessions_run_and_a_new_password_is_not(house: House) -> None:
    tenant_id = house.tenant_id
    await house.accounts.change(tenant_id, change_to(username="lab", password="one"), force=False)
    await own_session(house, tenant_id)
    changed = change_to(username="lab", password="two")
    await house.accounts.change(tenant_id, changed, force=False)
    # A client of the same name is somebody else.
    for other in (
        change_to(username="ward", password="two"),
        change_to(client_id="lab", client_secret="two"),
        change_to(token="t"),
    ):
        with pytest.raises(AccountInUse):
            await house.accounts.change(tenant_id, other, force=False)
    own = await house.stores.vendor_accounts.own(tenant_id)
    assert own is not None
    assert own.credentials == changed.credentials
    await house.accounts.change(tenant_id, change_to(username="ward", password="x"), force=True)


async def test_a_session_that_is_just_beginning_is_seen(house: House) -> None:
    tenant_id = await hospital(house)
    async with house.connection.transaction():
        await house.connection.execute(
            "INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages,"
            " expires_at) "
            "VALUES ('ses_1', $1, $1, 'created', 'chunked', 'dictation', 'pro', '{}', '{}', now())",
            tenant_id,
        )
        clearing = asyncio.create_task(house.accounts.clear(tenant_id))
        done, _ = await asyncio.wait([clearing], timeout=0.3)
        assert done == set()
    with pytest.raises(AccountInUse):
        await clearing
