"""Keys that sealed something are known: a lost one is told at the start, an empty one can be forgotten."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from service.api.readiness import Readiness
from service.bootstrap.container import (
    Stores,
    check_at_start,
    open_stores,
    ping_store,
    ping_store_for_requests,
)
from service.domain.clock import CheckedClock
from service.domain.errors import InvalidRequest, NotFound
from service.domain.ids import DEFAULT_ACCOUNT
from service.domain.results.fetching import ResultFetcher
from service.jobs.job_pool import JobPool
from service.jobs.reencryption import UNREADABLE, VALUES, Reencryption
from service.jobs.retention import RetentionJob
from service.jobs.sweep import Sweep
from service.store.encryption import DecryptionError, Keyring, MissingKeyError
from service.store.migrate import _SCRIPTS, migrate, newest_revision
from tests.support.encrypted_rows import NEW, OLD, OTHER, settings_with
from tests.support.fakes import ScriptedVendor
from tests.support.makers import make_lease
from tests.support.reencryption import OF, many_sessions, open_house, reencrypt_all
from tests.support.rig import until
from tests.support.store_house import new_tenant


async def answers() -> bool:
    return True


async def nothing(_: Any) -> None:
    return


async def states(stores: Stores) -> dict[str, str]:
    return {key.key_id: key.state for key in await stores.encryption_keys.keys()}


async def test_a_key_is_registered_when_it_encrypts_and_not_when_it_only_could(database_url):
    async with open_stores(settings_with(database_url, OLD, NEW)) as stores:
        await check_at_start(stores)
        assert await states(stores) == {OF[OLD]: "first", OF[NEW]: "unused"}
    async with open_stores(settings_with(database_url, OLD)) as stores:
        await check_at_start(stores)  # a list without the new key is still right
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        await check_at_start(stores)
        assert await states(stores) == {OF[NEW]: "first", OF[OLD]: "old"}


async def test_without_a_key_that_encrypted_something_nothing_starts_and_it_is_said_why(
    database_url, connection
):
    async with open_house(database_url, connection, OLD) as house:
        await check_at_start(house.stores)
        await many_sessions(house, 3)
    async with open_stores(settings_with(database_url, NEW)) as stores:
        with pytest.raises(DecryptionError) as told:
            await check_at_start(stores)
        # What nobody started registers nothing: the others are not to blame.
        assert await states(stores) == {OF[NEW]: "first", OF[OLD]: "missing"}
        assert [key.first_seen_at is None for key in await stores.encryption_keys.keys()] == [True, False]
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


async def test_a_command_introduces_no_key_beside_others(database_url):
    async with (
        open_stores(settings_with(database_url, NEW)) as running,
        open_stores(settings_with(database_url, OTHER, NEW)) as command,
    ):
        await running.encryption_keys.begin_command()  # an installation that is being set up
        assert await states(running) == {OF[NEW]: "first"}
        with pytest.raises(InvalidRequest, match=f"{OF[OTHER]}.*but {OF[NEW]} does"):
            await command.encryption_keys.begin_command()
        await ping_store(running)
        await running.encryption_keys.begin_command()  # its key is theirs
        await command.encryption_keys.begin()  # a process was started with that list
        await command.encryption_keys.begin_command()


async def test_a_command_brings_no_retired_key_back(database_url):
    async with (
        open_stores(settings_with(database_url, NEW)) as running,
        open_stores(settings_with(database_url, OLD, NEW)) as command,
    ):
        await command.encryption_keys.begin()
        await running.encryption_keys.forget(OF[OLD], give_up=True)
        await running.encryption_keys.begin()
        with pytest.raises(InvalidRequest, match=f"but {OF[NEW]} does"):
            await command.encryption_keys.begin_command()
        await ping_store(running)


async def test_a_process_that_started_without_its_database_registers_its_key_before_requests_come(
    database_url,
):
    async with open_stores(settings_with(database_url, OLD)) as stores:
        assert (await stores.encryption_keys.keys())[0].first_seen_at is None
        assert await ping_store_for_requests(stores) == "ok"
        assert (await stores.encryption_keys.keys())[0].first_seen_at is not None


async def test_readiness_names_the_missing_key_and_the_log_does(database_url, connection):
    async with open_stores(settings_with(database_url, OLD)) as stores:
        await stores.encryption_keys.begin()
        readiness = Readiness(
            ping_database=partial(ping_store_for_requests, stores),
            ping_redis=answers,
            clock=CheckedClock(),
            was_reached=lambda: stores.database.was_reached,
        )
        assert (await readiness.respond(is_stopping=False)).status_code == 200
        await connection.execute("INSERT INTO encryption_keys (key_id) VALUES ($1)", OF[NEW])
        with capture_logs() as logs:
            answer = await readiness.respond(is_stopping=False)
        assert answer.status_code == 503
        assert answer.content.database == f"the encryption key {OF[NEW]} is not among ENCRYPTION_KEYS"
        assert [(each["event"], each["key_ids"]) for each in logs] == [("encryption_key_missing", [OF[NEW]])]
        await connection.execute("DELETE FROM encryption_keys WHERE key_id = $1", OF[NEW])
        assert (await readiness.respond(is_stopping=False)).status_code == 200


async def test_a_worker_that_lacks_a_key_says_so_claims_nothing_and_leaves_the_lead_to_another(
    database_url, connection
):
    claims = 0

    async def claim(_: object, limit: int, at_quota: object) -> list[Any]:
        nonlocal claims
        claims += 1
        return []

    async def lead() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM leases WHERE name = 'sweep'"))

    async with open_stores(settings_with(database_url, OLD)) as stores:
        pool = JobPool[Any]("owed", size=1, claim=claim, run=nothing)
        sweep = Sweep(
            leases=stores.leases,
            idempotency=stores.idempotency,
            fetching=ResultFetcher(store=stores.results, vendor=ScriptedVendor(), clock=CheckedClock()),
            fetches=pool,
            deliveries=pool,
            pending_calls=pool,
            retention=RetentionJob(stores.retention),
            interval_seconds=0.01,
            check_keys=stores.encryption_keys.begin,
        )
        stopping = asyncio.Event()
        with capture_logs() as logs:
            running = asyncio.create_task(sweep.run(stopping))
            await until(lead)
            assert await states(stores) == {
                OF[OLD]: "first"
            }  # registered, though nothing checked at the start
            await connection.execute("INSERT INTO encryption_keys (key_id) VALUES ($1)", OF[NEW])

            async def is_told() -> bool:
                return any(each["event"] == "encryption_key_missing" for each in logs) and not await lead()

            await until(is_told)
            before, beat = claims, sweep.last_beat

            async def went_on() -> bool:
                return sweep.last_beat > beat + 0.05

            await until(went_on)
            assert claims == before
            await connection.execute("DELETE FROM encryption_keys WHERE key_id = $1", OF[NEW])
            await until(lead)
            assert claims > before
            stopping.set()
            await asyncio.wait_for(running, 10)
    assert {tuple(each["key_ids"]) for each in logs if each["event"] == "encryption_key_missing"} == {
        (OF[NEW],)
    }


async def test_a_key_is_forgotten_only_when_nothing_is_under_it(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await check_at_start(house.stores)
        await many_sessions(house, 3)
        other_tenant = await new_tenant(house.stores, "other")
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        await check_at_start(stores)
        with pytest.raises(InvalidRequest, match="it encrypts"):
            await stores.encryption_keys.forget(OF[NEW], give_up=False)
        with pytest.raises(NotFound):
            await stores.encryption_keys.forget("00000000", give_up=True)
        with pytest.raises(InvalidRequest, match="4 values are under"):
            await stores.encryption_keys.forget(OF[OLD], give_up=False)
        await reencrypt_all(stores)
        forgotten = await stores.encryption_keys.forget(OF[OLD], give_up=False)
        assert (forgotten.key_id, forgotten.given_up) == (OF[OLD], 0)
        assert await states(stores) == {OF[NEW]: "first", OF[OLD]: "retired"}
    async with open_stores(settings_with(database_url, NEW)) as stores:
        await check_at_start(stores)
        # A process that nobody thought of seals with it after all: it is not forgotten any more.
        async with open_stores(settings_with(database_url, OLD, NEW)) as behind:
            await behind.encryption_keys.begin()
        with pytest.raises(MissingKeyError, match=OF[OLD]):
            await ping_store(stores)
    told = await connection.fetch("SELECT * FROM audit WHERE action = 'encryption_key.retired'")
    assert {each["tenant_id"] for each in told} == {house.tenant_id, other_tenant}
    assert {(each["actor"], each["object_id"]) for each in told} == {("cli", OF[OLD])}
    assert json.loads(told[0]["facts"]) == {"given_up": 0}


async def test_one_value_in_any_column_keeps_a_key_from_being_forgotten(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await check_at_start(house.stores)
        await house.add_destination(headers={"x-key": "value"})
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        await check_at_start(stores)
        await reencrypt_all(stores)
        for table in ("sessions", "documents", "events", "idempotency_keys", "tenants", "vendor_tokens"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == (table == "tenants")
        # The walk is over; what came under the old key since then is seen by the count.
        encrypted = Keyring([OLD]).encrypt(b"{}", "x")
        await connection.execute("UPDATE destinations SET headers_sealed = $1", encrypted)
        with pytest.raises(InvalidRequest, match="1 values are under"):
            await stores.encryption_keys.forget(OF[OLD], give_up=False)


async def test_a_lost_key_can_be_given_up_so_that_the_rest_works_again(database_url, connection):
    async with open_house(database_url, connection, OLD) as house:
        await check_at_start(house.stores)
    async with open_house(database_url, connection, OTHER, OLD) as house:
        await check_at_start(house.stores)
        await many_sessions(house, 2)
        lease = make_lease()
        await house.stores.vendor_tokens.lease(DEFAULT_ACCOUNT, lease, seconds=30, generation=0)
        await house.stores.vendor_tokens.store(DEFAULT_ACCOUNT, lease, b"tokens")
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        with pytest.raises(DecryptionError, match="about 3 values"):
            await check_at_start(stores)
        assert (await stores.encryption_keys.forget(OF[OTHER], give_up=True)).given_up == 3
        # A login gets new ones: no call to EkaScribe waits for those that nobody can read.
        assert (await stores.vendor_tokens.read(DEFAULT_ACCOUNT)).tokens is None
        await check_at_start(stores)
        await ping_store(stores)


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
        about = (await house.stores.encryption_keys.about())[OF[OLD]]["sessions.details_sealed"]
        (exact,) = [each for each in await house.stores.encryption_keys.keys() if each.values]
        assert exact.places == {"sessions.details_sealed": 60_000}
        assert 30_000 < about < 120_000


async def test_the_worker_reencrypts_by_itself_and_shows_what_is_left(database_url, connection):
    async with open_house(database_url, connection, OTHER) as house:
        await many_sessions(house, 1)
        await connection.execute("UPDATE sessions SET id = 'ses_x'")  # does not open at its place any more
        await connection.execute("DELETE FROM server_secrets")
    async with open_house(database_url, connection, OLD) as house:
        await house.stores.encryption_keys.begin()
        await many_sessions(house, 60)
    async with open_stores(settings_with(database_url, NEW, OLD)) as stores:
        await stores.encryption_keys.begin()
        stopping = asyncio.Event()
        job = Reencryption(
            leases=stores.leases,
            keys=stores.encryption_keys,
            reencryption=stores.reencryption,
            keyring=stores.keyring,
        )
        shown: dict[str, float] = {}
        running = asyncio.create_task(job.run(stopping))

        async def is_done() -> bool:
            shown.update(
                {sample.labels["key"]: sample.value for each in VALUES.collect() for sample in each.samples}
            )
            passes = await stores.reencryption.passes()
            return len(passes) == 8 and all(each.finished_at for each in passes)

        await until(is_done)
        assert shown == {"first": 0, "old": 60, "missing": 1}  # at the start; a look a minute
        stopping.set()
        await asyncio.wait_for(running, 10)
        assert [sample for each in VALUES.collect() for sample in each.samples] == []
        (first, old, missing) = await stores.encryption_keys.keys()
        assert (first.values, old.values, missing.values) == (60, 0, 1)
        again = Reencryption(
            leases=stores.leases,
            keys=stores.encryption_keys,
            reencryption=stores.reencryption,
            keyring=stores.keyring,
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
        old.encrypt(b"x", "y"),
    )
    await connection.execute(
        "INSERT INTO tenants (id, name, account_sealed) VALUES ('ten_1', 'a', $1), ('ten_2', 'b', NULL)",
        other.encrypt(b"x", "y"),
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
