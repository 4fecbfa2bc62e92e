"""A new key: every value is brought under it, each at its place, and nothing else changes or is lost."""

import asyncio
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from schemas.destinations import OAuth2
from service.bootstrap.container import open_stores, ping_store
from service.domain.ids import DEFAULT_ACCOUNT
from service.store.encryption import DecryptionError, Keyring, head_of
from service.store.reencryption import ENCRYPTED_TABLES, EncryptedTable
from tests.support.encrypted_rows import DETAILS, NEW, OLD, OTHER, TOKENS, fill, settings_with
from tests.support.reencryption import OF, many_sessions, open_house, reencrypt_all
from tests.support.store_house import House

# Every column of bytes that is not sealed, and what it holds.
NOT_ENCRYPTED = {
    "api_keys.key_hash": "a keyed hash",
    "attempts.response_sha256": "a hash of an answer",
    "chunks.sha256": "a hash of audio",
    "idempotency_keys.key_hash": "a keyed hash",
    "idempotency_keys.request_hash": "a keyed hash",
    "recordings.sha256": "a hash of audio",
    "sessions.patient_id_hash": "a keyed hash",
    "sessions.reference_hash": "a keyed hash",
    "webhook_events.body_sha256": "a hash of a webhook",
}


ENCRYPTED = {f"{table.name}.{column}" for table in ENCRYPTED_TABLES for column, _ in table.columns}


async def values_of(connection: asyncpg.Connection, table: EncryptedTable) -> dict[tuple[str, str], bytes]:
    """Every sealed value of a table, by its row and the place for which it must be sealed."""
    found = {}
    rows = await connection.fetch(table.read, "", 10_000, b"none")
    for row in rows:
        for column, place in table.columns:
            if row[column] is not None:
                found[row["id"], place(row["owner"])] = row[column]
    return found


async def rest_of(connection: asyncpg.Connection) -> dict[str, list[Any]]:
    """All that the tables with sealed columns hold beside these."""
    found = {}
    for table in ENCRYPTED_TABLES:
        removed = "".join(f" - '{column}'" for column, _ in table.columns)
        rows = await connection.fetch(f"SELECT (to_jsonb(t){removed})::text AS rest FROM {table.name} t")
        found[table.name] = sorted(row["rest"] for row in rows)
    return found


async def fill_all(house: House) -> dict[str, str]:
    """One value at least in every sealed column, under the first key."""
    made = await fill(house)
    auth = OAuth2(token_url="https://emr.example/t", client_id="c", client_secret="s")
    await house.add_destination(headers={"x-key": "header"}, auth=auth)
    await house.connection.execute(
        "UPDATE tenants SET account_sealed = $2 WHERE id = $1",
        house.tenant_id,
        house.stores.keyring.encrypt(b"{}", f"tenant.account:{house.tenant_id}"),
    )
    return made


async def test_every_column_of_bytes_is_reencrypted_or_is_known_not_to_be_encrypted(connection):
    rows = await connection.fetch(
        "SELECT table_name || '.' || column_name AS name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'bytea'"
    )
    assert {row["name"] for row in rows} == ENCRYPTED | set(NOT_ENCRYPTED)
    assert all(name.endswith("_sealed") for name in ENCRYPTED)


async def test_every_value_is_brought_under_the_first_key_and_nothing_else_changes(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        made = await fill_all(house)
        tenant = house.tenant_id
        hashed = await house.stores.hasher.hash("purpose", b"value")
        before = {table.name: await values_of(connection, table) for table in ENCRYPTED_TABLES}
        counts = {key.key_id: key for key in await house.stores.encryption_keys.keys()}
    assert set(counts[OF[OLD]].places) == ENCRYPTED  # this test and the counts leave out no column
    rest = await rest_of(connection)
    async with open_house(database_url, connection, NEW, OLD, tenant=tenant) as house:
        standings = await house.stores.sessions.state_tokens([made["session"], made["open"]])
        passes = await reencrypt_all(house.stores)
        assert await house.stores.sessions.state_tokens([made["session"], made["open"]]) == standings
    assert await rest_of(connection) == rest
    old, new = Keyring([OLD]), Keyring([NEW])
    for table in ENCRYPTED_TABLES:
        after = await values_of(connection, table)
        assert after.keys() == before[table.name].keys()
        for (row, place), encrypted in after.items():
            assert new.decrypt(encrypted, place) == old.decrypt(before[table.name][row, place], place)
    total = sum(map(len, before.values()))
    assert sum(each.reencrypted for each in passes) == total
    assert {(each.left_over, each.unreadable) for each in passes} == {(0, 0)}
    assert all(each.finished_at for each in passes)
    # And the code finds it where it looks for it, with the new key alone.
    await connection.execute("UPDATE encryption_keys SET retired_at = now() WHERE key_id = $1", OF[OLD])
    async with open_stores(settings_with(database_url, NEW)) as stores:
        await ping_store(stores)
        assert await stores.hasher.hash("purpose", b"value") == hashed
        assert (await stores.vendor_tokens.read(DEFAULT_ACCOUNT)).tokens == TOKENS.encode()
        assert len((await stores.destinations.page(tenant, None, 10)).items) == 2
        (key,) = [each for each in await stores.encryption_keys.keys() if each.values]
        assert (key.key_id, key.state, key.values) == (OF[NEW], "first", total)
        assert set(key.places) == ENCRYPTED


@pytest.mark.parametrize("table", ENCRYPTED_TABLES, ids=lambda table: table.name)
async def test_a_value_that_was_changed_since_it_was_read_is_not_overwritten(database_url, connection, table):
    async with open_house(database_url, connection, OLD) as house:
        await fill_all(house)
    read = await connection.fetch(table.read, "", 10_000, b"none")
    before = await values_of(connection, table)
    stale = {column: head_of(Keyring([OLD]).encrypt(b"other", "p")) for column, _ in table.columns}
    arrays: list[Any] = [[row["id"] for row in read]]
    for column, _ in table.columns:
        arrays += [[stale[column]] * len(read), [b"overwritten"] * len(read)]
    await connection.fetch(table.write, *arrays)
    assert await values_of(connection, table) == before


async def under(connection: asyncpg.Connection, key: bytes) -> int:
    """How many sessions' details are under a key."""
    return await connection.fetchval(
        "SELECT count(*) FROM sessions WHERE substring(details_sealed FROM 2 FOR 4) = $1",
        bytes.fromhex(OF[key]),
    )


async def test_an_interrupted_pass_continues_at_its_cursor(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await many_sessions(house, 170)
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        await stores.encryption_keys.begin()
        while await under(connection, NEW) == 0:
            assert await stores.reencryption.step()
    done = await under(connection, NEW)
    assert 0 < done < 170
    # Whoever goes on reads nothing again: what lies behind is not looked at, whatever it is.
    first = await connection.fetchval("SELECT min(id) FROM sessions")
    await connection.execute("UPDATE sessions SET details_sealed = $2 WHERE id = $1", first, b"\x01broken")
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        (sessions,) = [each for each in await reencrypt_all(stores) if each.table == "sessions"]
    assert (sessions.reencrypted, sessions.unreadable) == (170, 0)
    assert await under(connection, NEW) == 169


async def test_several_workers_share_a_pass_and_count_it_once(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await many_sessions(house, 220)
    async with (
        open_stores(settings_with(database_url, NEW, OLD)) as one,
        open_stores(settings_with(database_url, NEW, OLD)) as other,
    ):
        await asyncio.gather(reencrypt_all(one), reencrypt_all(other))
        (sessions,) = [each for each in await one.reencryption.passes() if each.table == "sessions"]
    assert await under(connection, NEW) == 220
    assert sessions.reencrypted <= 220
    assert (sessions.left_over, sessions.unreadable) == (0, 0)


async def test_a_row_that_somebody_holds_is_not_waited_for_and_comes_later(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await many_sessions(house, 3)
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        async with connection.transaction():
            held = await connection.fetchval("SELECT id FROM sessions ORDER BY id LIMIT 1 FOR UPDATE")
            passes = {each.table: each for each in await reencrypt_all(stores)}
            assert (passes["sessions"].reencrypted, passes["sessions"].left_over) == (2, 1)
            # It was changed meanwhile: that is what counts.
            mine = Keyring([OLD]).encrypt_json({"reference": "changed"}, f"session.details:{held}")
            await connection.execute("UPDATE sessions SET details_sealed = $2 WHERE id = $1", held, mine)
        assert not await stores.reencryption.step()  # not at once, again and again
        await connection.execute("UPDATE resealing SET finished_at = now() - interval '1 minute'")
        passes = {each.table: each for each in await reencrypt_all(stores)}
        assert (passes["sessions"].reencrypted, passes["sessions"].left_over) == (1, 0)
        encrypted = await connection.fetchval("SELECT details_sealed FROM sessions WHERE id = $1", held)
        opened = Keyring([NEW]).decrypt(encrypted, f"session.details:{held}")
        assert opened == b'{"reference":"changed"}'


async def test_what_does_not_open_is_counted_and_told_and_left_as_it_is(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await many_sessions(house, 4)
    moved, damaged = "ses_" + "0" * 24, "ses_" + "0" * 23 + "1"
    await connection.execute(
        "UPDATE sessions s SET details_sealed = o.details_sealed FROM sessions o "
        "WHERE s.id = $1 AND o.id = $2",
        moved,
        "ses_" + "0" * 23 + "3",
    )
    await connection.execute(
        "UPDATE sessions SET details_sealed = set_byte(details_sealed, 40, get_byte(details_sealed, 40) # 1) "
        "WHERE id = $1",
        damaged,
    )
    before = await connection.fetch(
        "SELECT details_sealed FROM sessions WHERE id IN ($1, $2)", moved, damaged
    )
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        with capture_logs() as logs:
            passes = {each.table: each for each in await reencrypt_all(stores)}
        assert (passes["sessions"].reencrypted, passes["sessions"].unreadable) == (2, 2)
        told = [each for each in logs if each["event"] == "values_unreadable"]
        assert [(each["column"], each["rows"]) for each in told] == [
            ("sessions.details_sealed", [moved, damaged])
        ]
        after = await connection.fetch(
            "SELECT details_sealed FROM sessions WHERE id IN ($1, $2)", moved, damaged
        )
        assert after == before
        await stores.encryption_keys.begin()
        with pytest.raises(Exception, match="2 values are under"):
            await stores.encryption_keys.forget(OF[OLD], give_up=False)


async def test_the_first_pass_finds_keys_that_encrypted_something_before_there_was_a_registry(
    database_url, connection
):
    async with open_house(database_url, connection, OTHER) as house:
        await many_sessions(house, 2)
    await connection.execute("DELETE FROM server_secrets")
    async with open_house(database_url, connection, OLD) as house:
        await house.create()
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        await stores.encryption_keys.begin()
        passes = {each.table: each for each in await reencrypt_all(stores)}
        assert passes["sessions"].unreadable == 2
        with pytest.raises(DecryptionError, match=OF[OTHER]):
            await ping_store(stores)
    known = await connection.fetch("SELECT key_id FROM encryption_keys")
    assert {row["key_id"] for row in known} == set(OF.values())


async def test_one_damaged_value_is_no_missing_key(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        session_id = await house.create()
        await connection.execute(
            "UPDATE sessions SET details_sealed = "
            "set_byte(details_sealed, 2, get_byte(details_sealed, 2) # 1) WHERE id = $1",
            session_id,
        )
        await house.stores.encryption_keys.begin()
        passes = {each.table: each for each in await reencrypt_all(house.stores)}
        assert passes["sessions"].unreadable == 1
        await ping_store(house.stores)


async def test_two_workers_with_different_lists_never_undo_each_other_s_work(database_url, connection):
    async with (
        open_house(database_url, connection, OLD, NEW) as house,
        open_stores(settings_with(database_url, NEW, OLD)) as stores,
    ):
        await house.stores.encryption_keys.begin()
        await many_sessions(house, 3)
        await stores.encryption_keys.begin()
        # A process with the old list that starts again changes nothing about which key is the newer one.
        await house.stores.encryption_keys.begin()
        assert not await house.stores.reencryption.step()
        await reencrypt_all(stores)
        assert await under(connection, NEW) == 3
        assert not await house.stores.reencryption.step()


async def test_a_process_whose_key_was_forgotten_does_not_turn_the_re_encryption_back(
    database_url, connection
):
    async with (
        open_house(database_url, connection, OLD, NEW) as house,
        open_stores(settings_with(database_url, NEW, OLD)) as stores,
    ):
        await house.stores.encryption_keys.begin()
        await many_sessions(house, 3)
        await reencrypt_all(stores)
        await stores.encryption_keys.forget(OF[OLD], give_up=False)
        await house.stores.encryption_keys.begin()
        assert not await house.stores.reencryption.step()
        assert await under(connection, NEW) == 3


async def test_a_day_after_a_key_was_made_first_every_table_gets_one_more_pass(database_url, connection):
    async with (
        open_house(database_url, connection, OLD, NEW) as house,
        open_stores(settings_with(database_url, NEW, OLD)) as stores,
    ):
        await house.stores.encryption_keys.begin()
        await many_sessions(house, 3)
        await reencrypt_all(stores)
        await encrypted_again(house)  # by a process that had the old list still
        assert await under(connection, OLD) == 1
        assert not await stores.reencryption.step()
        for column, table in (("heard_at", "encryption_keys"), ("started_at", "resealing")):
            await connection.execute(f"UPDATE {table} SET {column} = {column} - interval '25 hours'")
        await reencrypt_all(stores)
        assert await under(connection, OLD) == 0
        # Once, not every day.
        await connection.execute("UPDATE encryption_keys SET heard_at = heard_at - interval '9 days'")
        await connection.execute("UPDATE resealing SET started_at = started_at - interval '5 days'")
        assert not await stores.reencryption.step()


async def test_going_back_to_the_old_key_takes_a_command(database_url, connection):
    async with (
        open_house(database_url, connection, OLD, NEW) as house,
        open_stores(settings_with(database_url, NEW, OLD)) as stores,
    ):
        await house.stores.encryption_keys.begin()
        await many_sessions(house, 3)
        await reencrypt_all(stores)
        await house.stores.reencryption.restart()
        assert not await stores.reencryption.step()
        await reencrypt_all(house.stores)
        assert await under(connection, OLD) == 3


async def encrypted_again(house: House) -> None:
    encrypted = house.stores.keyring.encrypt_json(DETAILS, "session.details:ses_" + "0" * 24)
    await house.connection.execute(
        "UPDATE sessions SET details_sealed = $1 WHERE id = $2", encrypted, "ses_" + "0" * 24
    )
