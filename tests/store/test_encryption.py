"""What must not be read in the database cannot be read in it, and survives the rotation of its keys."""

import base64

import asyncpg
import msgspec
import pytest

from service.bootstrap.container import Stores, open_stores, ping_store
from service.domain.api_keys.changes import ApiKeys
from service.domain.ids import DEFAULT_ACCOUNT
from service.store.encryption import DecryptionError
from service.store.session_queries import SessionFilter, SessionQueries
from tests.support.bridge import principal_of
from tests.support.encrypted_rows import (
    DETAILS,
    DOCUMENT,
    KEY,
    METADATA,
    NAME,
    NEW,
    OLD,
    OTHER,
    PATIENT,
    REFERENCE,
    TOKENS,
    TRANSCRIPT,
    URL_TOKEN,
    WARNING,
    fill,
    keyed,
    settings_with,
)
from tests.support.makers import make_lease
from tests.support.store_house import House, new_tenant


async def dump(connection: asyncpg.Connection) -> str:
    """Every value of every table as text; bytea as its bytes, read as Latin-1, and as hexadecimal."""
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found = []
    for table in tables:
        for row in await connection.fetch(f'SELECT t.*, t::text AS whole FROM "{table["tablename"]}" t'):
            found += [
                value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row.values()
            ]
    return "\n".join(found)


async def test_no_column_of_any_table_holds_a_secret_in_clear(house):
    made = await fill(house)
    for table in await house.connection.fetch(
        # The version before wrote `sealers`; a table is dropped one release after its last use.
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'sealers'"
    ):
        assert await house.value(f'SELECT count(*) FROM "{table["tablename"]}"') > 0, table["tablename"]
    text = await dump(house.connection)
    assert made["session"] in text  # the dump sees what is in clear
    secret = made["secret"].removeprefix("whsec_")
    needles = [
        *NAME.split(),
        PATIENT,
        REFERENCE,
        TRANSCRIPT,
        "chest-pain",
        DOCUMENT,
        WARNING,
        METADATA,
        URL_TOKEN,
        "emr.example",
        "api.eka.care",
        KEY,
        TOKENS,
        made["capability"],
        made["key"],
        made["key"].removeprefix("ekb_"),
        secret,
        base64.b64decode(secret).decode("latin-1"),
    ]
    lowered = text.lower()
    assert [
        needle for needle in needles if needle.lower() in lowered or needle.encode("latin-1").hex() in lowered
    ] == []


def views_of(stores: Stores) -> SessionQueries:
    return SessionQueries(
        stores.database, stores.keyring, stores.sessions, stores.streams, "https://bridge.example"
    )


async def ids_found(stores: Stores, tenant_id, **wanted: str) -> set[str]:
    page = await views_of(stores).page(tenant_id, SessionFilter(**wanted), None, 10)
    return {session.id for session in page.items}


async def test_everything_is_found_and_opens_after_the_keys_were_rotated(database_url, connection):
    async with open_stores(settings_with(database_url, OLD)) as stores:
        house = House(stores=stores, connection=connection, tenant_id=await new_tenant(stores))
        made = await fill(house)
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        await ping_store(stores)
        house = House(stores=stores, connection=connection, tenant_id=house.tenant_id)
        later = await house.create(details=DETAILS)
        # Equality is asked for by keyed hashes, which the rotation must not change.
        for wanted in ({"patient_id": PATIENT}, {"reference": REFERENCE}):
            found = await ids_found(stores, house.tenant_id, **wanted)
            assert {made["session"], made["open"], later} <= found
        session = await views_of(stores).session(house.tenant_id, made["session"])
        assert session.patient == {"id": PATIENT, "name": NAME}
        assert session.transcript == TRANSCRIPT
        (document,) = await views_of(stores).documents(house.tenant_id, made["session"], None)
        assert document.data == {"assessment": DOCUMENT}
        assert (await principal_of(stores.api_keys, made["key"])).tenant_id == house.tenant_id
        assert URL_TOKEN in (await stores.destinations.one(house.tenant_id, made["destination"])).url
        assert (await stores.vendor_tokens.read(DEFAULT_ACCOUNT)).tokens == TOKENS.encode()
        again = await stores.idempotency.reserve_session(
            keyed(house), house.plan(), make_lease(), lease_seconds=60, life_seconds=3600
        )
        assert (again.kind, again.answer) == ("replayed", NAME.encode())
        # What is written now is under the first key alone.
        encrypted = await connection.fetchval("SELECT details_sealed FROM sessions WHERE id = $1", later)
        old = await connection.fetchval("SELECT details_sealed FROM sessions WHERE id = $1", made["session"])
        assert encrypted[1:5] != old[1:5]


@pytest.mark.parametrize("keys", [(OTHER,), (NEW,)])
async def test_without_the_key_nothing_opens_and_the_error_says_so(database_url, connection, keys):
    async with open_stores(settings_with(database_url, OLD)) as stores:
        house = House(stores=stores, connection=connection, tenant_id=await new_tenant(stores))
        made = await fill(house)
    async with open_stores(settings_with(database_url, *keys)) as stores:
        for call in (
            ping_store(stores),
            stores.hasher.hash("x", b"y"),
            principal_of(stores.api_keys, made["key"]),
            views_of(stores).session(house.tenant_id, made["session"]),
            stores.destinations.one(house.tenant_id, made["destination"]),
            stores.vendor_tokens.read(DEFAULT_ACCOUNT),
        ):
            with pytest.raises(DecryptionError, match="ENCRYPTION_KEYS"):
                await call


async def test_a_value_that_was_moved_to_another_row_does_not_open(house):
    one = await house.create(details=DETAILS)
    other = await house.create(details=msgspec.structs.replace(DETAILS, reference="other"))
    await house.connection.execute(
        "UPDATE sessions s SET details_sealed = o.details_sealed FROM sessions o "
        "WHERE o.id = $1 AND s.id = $2",
        one,
        other,
    )
    shown = await views_of(house.stores).session(house.tenant_id, other)
    assert (shown.patient, shown.reference, shown.metadata) == (None, None, {})
    assert shown.error is not None
    assert shown.error.code == "value_unreadable"


async def test_the_installation_s_secret_is_one_however_many_processes_make_it(database_url, connection):
    async with (
        open_stores(settings_with(database_url, OLD)) as one,
        open_stores(settings_with(database_url, OLD)) as other,
    ):
        hashes = [await stores.hasher.hash("purpose", b"value") for stores in (one, other)]
        assert hashes[0] == hashes[1]
        assert await one.hasher.hash("another", b"value") != hashes[0]
    assert await connection.fetchval("SELECT count(*) FROM server_secrets") == 1


async def test_the_same_patient_of_two_tenants_has_two_hashes(house):
    other = await new_tenant(house.stores, "other")
    await house.create(details=DETAILS)
    await house.insert(details=DETAILS, tenant_id=other)
    assert await house.value("SELECT count(DISTINCT patient_id_hash) FROM sessions") == 2
    assert await house.value("SELECT count(DISTINCT reference_hash) FROM sessions") == 2
    assert await ids_found(house.stores, other, patient_id=PATIENT) != await ids_found(
        house.stores, house.tenant_id, patient_id=PATIENT
    )


async def test_a_key_is_known_until_it_is_revoked(house):
    key = await ApiKeys(house.stores.api_keys).add(house.tenant_id, "emr")
    principal = await principal_of(house.stores.api_keys, str(key.key))
    assert (principal.key_id, principal.tenant_id, principal.role, principal.account) == (
        key.id,
        house.tenant_id,
        "emr",
        DEFAULT_ACCOUNT,
    )
    revoked = await ApiKeys(house.stores.api_keys).revoke(house.tenant_id, key.id)
    assert await principal_of(house.stores.api_keys, str(key.key)) is None
    again = await ApiKeys(house.stores.api_keys).revoke(house.tenant_id, key.id)
    assert again.revoked_at == revoked.revoked_at
    assert [each.id for each in await house.stores.api_keys.list_keys(house.tenant_id)] == [key.id]


@pytest.mark.parametrize("key", ["", "ekb_", "ekb_unknown", "Bearer x", "ekb_é", "ekb_\0", "' OR 1=1 --"])
async def test_an_unknown_key_is_nobody(house, key):
    await ApiKeys(house.stores.api_keys).add(house.tenant_id, "emr")
    assert await principal_of(house.stores.api_keys, key) is None
