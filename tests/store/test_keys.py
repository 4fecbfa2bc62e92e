"""Keys that sealed something are known: a lost one is told at the start, an empty one can be forgotten."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from service.bootstrap.container import Stores, check_at_start, open_stores, ping_store
from service.domain.errors import InvalidRequest, NotFound
from service.jobs.monitors.encryption_keys import EncryptionKeyMonitor
from service.jobs.reencryption import UNREADABLE, VALUES, Reencryption
from service.store.encryption import Keyring, MissingKeyError, SealError
from service.store.migrate import _SCRIPTS, migrate, newest_revision
from tests.e2e.rig import until
from tests.store.house import new_tenant
from tests.store.test_encryption import NEW, OLD, OTHER, settings_with
from tests.store.test_resealing import OF, many_sessions, open_house, walk


async def states(rows: Stores) -> dict[str, str]:
    return {key.key_id: key.state for key in await rows.keys.keys()}


async def test_a_key_is_registered_when_it_seals_and_not_when_it_only_could(database_url):
    async with open_stores(settings_with(database_url, OLD, NEW)) as rows:
        await check_at_start(rows)
        assert await states(rows) == {OF[OLD]: "first", OF[NEW]: "unused"}
    async with open_stores(settings_with(database_url, OLD)) as rows:
        await check_at_start(rows)  # a list without the new key is still right
    async with open_stores(settings_with(database_url, NEW, OLD)) as rows:
        await check_at_start(rows)
        assert await states(rows) == {OF[NEW]: "first", OF[OLD]: "old"}


async def test_without_a_key_that_sealed_something_nothing_starts_and_it_is_said_why(
    database_url, connection
):
    async with open_house(database_url, connection, OLD) as house:
        await check_at_start(house.rows)
        await many_sessions(house, 3)
    async with open_stores(settings_with(database_url, NEW)) as rows:
        with pytest.raises(SealError) as told:
            await check_at_start(rows)
        # What nobody started registers nothing: the others are not to blame.
        assert await states(rows) == {OF[NEW]: "first", OF[OLD]: "missing"}
        assert [key.first_seen_at is None for key in await rows.keys.keys()] == [True, False]
    words = str(told.value)
    assert f"the encryption key {OF[OLD]} is not among ENCRYPTION_KEYS" in words
    assert "about 4 values cannot be read" in words
    assert "sessions.details_sealed 3" in words
    assert "server_secrets.value_sealed 1" in words
    assert f"ekabridge encryption forget {OF[OLD]} --give-up" in words
    for key in (OLD, NEW):
        assert key.hex() not in words


async def test_a_process_is_not_ready_while_others_seal_with_a_key_that_it_lacks(database_url):
    async with (
        open_stores(settings_with(database_url, OLD)) as behind,
        open_stores(settings_with(database_url, NEW, OLD)) as ahead,
    ):
        await check_at_start(behind)
        await ping_store(behind)
        await check_at_start(ahead)
        await ping_store(ahead)
        with pytest.raises(MissingKeyError, match=OF[NEW]):
            await ping_store(behind)


async def test_a_command_that_seals_brings_no_key_in_beside_running_processes(database_url):
    process = uuid4()
    async with (
        open_stores(settings_with(database_url, NEW)) as running,
        open_stores(settings_with(database_url, OTHER, NEW)) as command,
    ):
        await running.keys.begin_command()  # an installation that is being set up: nothing runs
        await running.keys.renew(process)
        with pytest.raises(InvalidRequest, match=f"{OF[OTHER]}.*seal with {OF[NEW]}"):
            await command.keys.begin_command()
        await ping_store(running)
        await running.keys.begin_command()  # its key is theirs
        await running.keys.leave(process)
        await command.keys.begin_command()
        assert (await states(command))[OF[OTHER]] == "first"


async def test_a_command_brings_no_retired_key_back_beside_running_processes(database_url):
    async with (
        open_stores(settings_with(database_url, NEW)) as running,
        open_stores(settings_with(database_url, OLD, NEW)) as command,
    ):
        await command.keys.begin()
        await running.keys.forget(OF[OLD], give_up=True)
        await running.keys.renew(uuid4())
        with pytest.raises(InvalidRequest, match=f"seal with {OF[NEW]}"):
            await command.keys.begin_command()
        await ping_store(running)


async def test_it_says_so_in_the_log_and_claims_nothing_until_it_is_mended(database_url, connection):
    async def claim(_: object, limit: int) -> list[int]:
        return [limit]

    async with open_stores(settings_with(database_url, OLD)) as rows:
        await connection.execute("INSERT INTO encryption_keys (key_id) VALUES ($1)", OF[NEW])
        watch = EncryptionKeyMonitor(rows.keys)
        gated = watch.gated(claim)
        assert await gated(None, 7) == [7]
        with capture_logs() as logs:
            await watch.start()

            async def is_told() -> bool:
                return any(each["event"] == "encryption_key_missing" for each in logs)

            await until(is_told)
        assert await gated(None, 7) == []
        await watch.stop()
        # It neither registered itself nor left a trace.
        assert await connection.fetchval("SELECT count(*) FROM sealers") == 0
        assert await connection.fetchval("SELECT count(*) FROM encryption_keys") == 1


async def test_a_running_process_counts_as_one_that_seals_until_it_stops(database_url, connection):
    async with open_stores(settings_with(database_url, OLD)) as rows:
        watch = EncryptionKeyMonitor(rows.keys)
        await watch.start()

        async def seals() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM sealers WHERE until > now()"))

        await until(seals)
        (key,) = await rows.keys.keys()
        assert (key.key_id, key.processes) == (OF[OLD], 1)
        await watch.stop()
        assert not await seals()


async def test_a_key_is_forgotten_only_when_nothing_is_under_it_and_nobody_seals_with_it(
    database_url, connection
):
    async with open_house(database_url, connection, OLD) as house:
        await check_at_start(house.rows)
        await many_sessions(house, 3)
        other_tenant = await new_tenant(house.rows, "other")
    async with open_stores(settings_with(database_url, NEW, OLD)) as rows:
        await check_at_start(rows)
        with pytest.raises(InvalidRequest, match="it seals"):
            await rows.keys.forget(OF[NEW], give_up=False)
        with pytest.raises(NotFound):
            await rows.keys.forget("00000000", give_up=True)
        with pytest.raises(InvalidRequest, match="4 values are under"):
            await rows.keys.forget(OF[OLD], give_up=False)
        await walk(rows)
        async with open_stores(settings_with(database_url, OLD, NEW)) as behind:
            process = uuid4()
            await behind.keys.renew(process)
            for give_up in (False, True):
                with pytest.raises(InvalidRequest, match="1 processes seal with"):
                    await rows.keys.forget(OF[OLD], give_up=give_up)
            await behind.keys.leave(process)
        forgotten = await rows.keys.forget(OF[OLD], give_up=False)
        assert (forgotten.key_id, forgotten.given_up) == (OF[OLD], 0)
        assert await states(rows) == {OF[NEW]: "first", OF[OLD]: "retired"}
    async with open_stores(settings_with(database_url, NEW)) as rows:
        await check_at_start(rows)
        # A process that nobody thought of seals with it after all: it is not forgotten any more.
        async with open_stores(settings_with(database_url, OLD, NEW)) as behind:
            await behind.keys.renew(uuid4())
        with pytest.raises(MissingKeyError, match=OF[OLD]):
            await ping_store(rows)
    told = await connection.fetch("SELECT * FROM audit WHERE action = 'encryption_key.retired'")
    assert {each["tenant_id"] for each in told} == {house.tenant_id, other_tenant}
    assert {(each["actor"], each["object_id"]) for each in told} == {("cli", OF[OLD])}
    assert json.loads(told[0]["facts"]) == {"given_up": 0}


async def test_one_value_in_any_column_keeps_a_key_from_being_forgotten(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await check_at_start(house.rows)
        await house.add_destination(headers={"x-key": "value"})
    async with open_stores(settings_with(database_url, NEW, OLD)) as rows:
        await check_at_start(rows)
        await walk(rows)
        for table in ("sessions", "documents", "events", "idempotency_keys", "tenants", "vendor_tokens"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == (table == "tenants")
        # The walk is over; what came under the old key since then is seen by the count.
        sealed = Keyring([OLD]).seal(b"{}", "x")
        await connection.execute("UPDATE destinations SET headers_sealed = $1", sealed)
        with pytest.raises(InvalidRequest, match="1 values are under"):
            await rows.keys.forget(OF[OLD], give_up=False)


async def test_a_lost_key_can_be_given_up_so_that_the_rest_works_again(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await check_at_start(house.rows)
    async with open_house(database_url, connection, OTHER, OLD) as house:
        await check_at_start(house.rows)
        await many_sessions(house, 2)
    async with open_stores(settings_with(database_url, NEW, OLD)) as rows:
        with pytest.raises(SealError, match="about 2 values"):
            await check_at_start(rows)
        assert (await rows.keys.forget(OF[OTHER], give_up=True)).given_up == 2
        await check_at_start(rows)
        await ping_store(rows)


async def test_what_is_told_at_the_start_is_projected_from_some_pages_of_a_large_table(
    database_url, connection
):
    async with open_house(database_url, connection, OLD) as house:
        await connection.execute(
            "INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, "
            "languages, expires_at, details_sealed) SELECT 'ses_' || n, $1, 'default', 'created', 'chunked', "
            "'dictation', 'pro', '{}', '{}', now(), $2 || sha256(n::text::bytea) "
            "FROM generate_series(1, 60000) n",
            house.tenant_id,
            b"\x01" + bytes.fromhex(OF[OLD]),
        )
        pages = await connection.fetchval("SELECT pg_relation_size('sessions') / 8192")
        assert pages > 1000
        about = (await house.rows.keys.about())[OF[OLD]]["sessions.details_sealed"]
        (exact,) = [each for each in await house.rows.keys.keys() if each.values]
        assert exact.places == {"sessions.details_sealed": 60_000}
        assert 30_000 < about < 120_000


async def test_forgetting_waits_for_a_process_that_begins_at_the_same_moment(database_url, connection):
    async with open_stores(settings_with(database_url, OLD)) as rows:
        await rows.keys.begin()
    async with open_stores(settings_with(database_url, NEW, OLD)) as rows:
        await rows.keys.begin()
        beginning = connection.transaction()
        await beginning.start()
        await connection.execute("UPDATE encryption_keys SET heard_at = now() WHERE key_id = $1", OF[OLD])
        await connection.execute(
            "INSERT INTO sealers VALUES ($1, $2, now() + interval '1 minute')", uuid4(), OF[OLD]
        )
        forgetting = asyncio.create_task(rows.keys.forget(OF[OLD], give_up=False))

        async def is_waiting() -> bool:
            row = await rows.database.fetchrow(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND datname = current_database()"
            )
            return row is not None or forgetting.done()

        await until(is_waiting)
        await beginning.commit()
        with pytest.raises(InvalidRequest, match="1 processes seal with"):
            await asyncio.wait_for(forgetting, 10)


async def test_the_worker_walks_by_itself_and_shows_what_is_left(database_url, connection):
    async with open_house(database_url, connection, OTHER) as house:
        await many_sessions(house, 1)
        await connection.execute("UPDATE sessions SET id = 'ses_x'")  # does not open at its place any more
        await connection.execute("DELETE FROM server_secrets")
    async with open_house(database_url, connection, OLD) as house:
        await house.rows.keys.begin()
        await many_sessions(house, 60)
    async with open_stores(settings_with(database_url, NEW, OLD)) as rows:
        await rows.keys.begin()
        stopping = asyncio.Event()
        job = Reencryption(leases=rows.leases, keys=rows.keys, resealing=rows.resealing, keyring=rows.keyring)
        shown: dict[str, float] = {}
        running = asyncio.create_task(job.run(stopping))

        async def is_done() -> bool:
            shown.update(
                {sample.labels["key"]: sample.value for each in VALUES.collect() for sample in each.samples}
            )
            walks = await rows.resealing.walks()
            return len(walks) == 8 and all(each.finished_at for each in walks)

        await until(is_done)
        assert shown == {"first": 0, "old": 60, "missing": 1}  # at the start; a look a minute
        stopping.set()
        await asyncio.wait_for(running, 10)
        assert [sample for each in VALUES.collect() for sample in each.samples] == []
        (first, old, missing) = await rows.keys.keys()
        assert (first.values, old.values, missing.values) == (60, 0, 1)
        again = Reencryption(
            leases=rows.leases, keys=rows.keys, resealing=rows.resealing, keyring=rows.keyring
        )
        await connection.execute("DELETE FROM leases")
        stopping.clear()
        running = asyncio.create_task(again.run(stopping))

        async def is_shown() -> bool:
            (figure,) = [sample.value for each in UNREADABLE.collect() for sample in each.samples]
            return figure == 1

        await until(is_shown)
        stopping.set()
        await asyncio.wait_for(running, 10)


async def test_a_database_of_the_version_before_is_brought_over_with_its_keys(empty_database_url):
    connection = await asyncpg.connect(empty_database_url)
    for script in sorted((_SCRIPTS / "versions").glob("000[123]_*.sql")):
        await connection.execute(script.read_text())
    await connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    await connection.execute("INSERT INTO alembic_version VALUES ('0003')")
    old, other = Keyring([OLD]), Keyring([OTHER])
    await connection.execute(
        "INSERT INTO server_secrets VALUES ('hash_key', $1), ('broken', ''), ('cut', '\\x01020304')",
        old.seal(b"x", "y"),
    )
    await connection.execute(
        "INSERT INTO tenants (id, name, account_sealed) VALUES ('ten_1', 'a', $1), ('ten_2', 'b', NULL)",
        other.seal(b"x", "y"),
    )
    await connection.execute(
        "INSERT INTO audit (tenant_id, actor, action, object_id) VALUES ('ten_1', 'cli', 'x', 'y')"
    )
    columns = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'public' AND table_name = ANY($1)"
    )
    tables = [
        row["tablename"]
        for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    ]
    before = set(await connection.fetch(columns, tables))
    assert await migrate(empty_database_url) == newest_revision()
    # What the processes of the version before use is as it was: they go on beside the new ones.
    assert before <= set(await connection.fetch(columns, tables))
    known = await connection.fetch("SELECT key_id, retired_at FROM encryption_keys")
    assert {(row["key_id"], row["retired_at"]) for row in known} == {(OF[OLD], None), (OF[OTHER], None)}
    assert await connection.fetchval("SELECT count(*) FROM audit") == 1
    await connection.execute(
        "INSERT INTO audit (tenant_id, actor, action, object_id) VALUES ('ten_1', 'cli', 'x', 'y')"
    )
    await connection.close()
