"""The command line as an operator uses it: real processes, real output."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.bridge import encoded_key
from tests.support.certificates import make_authority
from tests.support.commands import bare_environment, ekabridge, in_a_new_interpreter
from tests.support.rig import Rig, open_rig


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        yield opened


async def test_a_command_in_an_interpreter_of_its_own_says_the_same(rig: Rig) -> None:
    """The other tests fork it from a process that has imported everything; a shell does not."""
    for arguments in (("tenant", "list"), ("key", "add", "ten_unknown"), ("doctor", "--what")):
        forked = await ekabridge(rig.environment, *arguments)
        assert await in_a_new_interpreter(rig.environment, *arguments) == forked


async def test_migrate_twice_and_from_two_at_once(empty_database_url: str) -> None:
    environment = bare_environment(DATABASE_URL=empty_database_url)
    status, _, complaint = await ekabridge(environment, "migrate", "--check")
    assert (status, "no schema" in complaint) == (1, True)
    first = await asyncio.gather(*(ekabridge(environment, "migrate") for _ in range(2)))
    again = await ekabridge(environment, "migrate")
    checked = await ekabridge(environment, "migrate", "--check", "--wait", "1")
    assert (checked[0], checked[1]) == (0, again[1])
    assert [status for status, _, _ in [*first, again]] == [0, 0, 0]
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
        assert await connection.fetchval("SELECT count(*) FROM sessions") == 0
    finally:
        await connection.close()


async def test_tenant_key_and_destination_from_birth_to_end(rig: Rig) -> None:
    async def as_json(*arguments: str) -> dict:
        status, out, err = await ekabridge(rig.environment, *arguments, "--json")
        assert (status, out.count("\n")) == (0, 1), err
        return json.loads(out)

    tenant = await as_json("tenant", "add", "St. Mary", "--template", "soap", "--language", "hi")
    assert tenant["name"] == "St. Mary"
    assert tenant["defaults"]["templates"] == ["soap"]
    assert tenant["id"] in [item["id"] for item in (await as_json("tenant", "list"))["items"]]

    key = await as_json("key", "add", tenant["id"], "--role", "emr")
    service = await rig.serve()
    rig.key = key["key"]
    api = await rig.client(service)
    created = await api.post("/v1/sessions", json={})
    assert (created.status_code, created.json()["templates"]) == (201, ["soap"])
    assert created.json()["languages"] == ["hi"]
    assert "key" not in (await as_json("key", "list", tenant["id"]))["items"][0]
    revoked = await as_json("key", "revoke", tenant["id"], key["id"])
    assert revoked["revoked_at"] is not None
    assert (await api.get("/v1/sessions")).status_code == 401

    assert tenant["keep_audio"] is None
    for choice, kept in (("until_result", "until_result"), ("7", "7"), ("default", None)):
        assert (await as_json("tenant", "set", tenant["id"], "--keep-audio", choice))["keep_audio"] == kept
    destination = await as_json("destination", "add", tenant["id"], "http://127.0.0.1:9/hooks")
    assert destination["secret"].startswith("whsec_")
    listed = (await as_json("destination", "list", tenant["id"]))["items"]
    assert [item["id"] for item in listed] == [destination["id"]]
    assert "secret" not in listed[0]
    await as_json("destination", "remove", tenant["id"], destination["id"])
    assert (await as_json("destination", "list", tenant["id"]))["items"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["key", "add", "ten_unknown"], "no such tenant"),
        (["destination", "add", "ten_unknown", "http://127.0.0.1:9/"], "no such tenant"),
        (["key", "revoke", "ten_unknown", "key_unknown"], "no such key"),
        (["destination", "remove", "ten_unknown", "dst_unknown"], "no such destination"),
        (["tenant", "add", "x", "--template", "a", "--template", "b", "--template", "c"], "templates"),
        (["tenant", "add", "x", "--language", "not a language"], "languages"),
        (["tenant", "set", "ten_unknown", "--keep-audio", "7"], "no such tenant"),
        (["tenant", "set", "ten_unknown", "--keep-audio", "0"], "--keep-audio"),
    ],
)
async def test_mistakes_are_told_and_change_nothing(rig: Rig, arguments: list[str], words: str) -> None:
    status, out, err = await ekabridge(rig.environment, *arguments, "--json")
    assert status != 0
    assert out == ""
    assert words in err


async def test_a_private_destination_is_refused_unless_allowed(rig: Rig) -> None:
    environment = rig.environment | {"EKABRIDGE_ALLOW_PRIVATE_DESTINATIONS": "false"}
    add = ("destination", "add", rig.tenant_id)
    for url in ("https://127.0.0.1/hooks", "https://169.254.169.254/", "https://[::1]/", "https://10.1.2.3/"):
        status, _, err = await ekabridge(environment, *add, url)
        assert status != 0
        assert "destination_forbidden" in err


async def test_all_problems_of_the_settings_come_at_once_and_no_secret_is_shown() -> None:
    environment = bare_environment(
        REDIS_URL="http://wrong",
        ENCRYPTION_KEYS="c2VjcmV0LXNlY3JldA==",
        WEBHOOK_TOLERANCE_SECONDS="soon",
        EKA_CLIENT_ID="only-the-id",
        EKA_USERNAME="and-a-user",
    )
    status, out, err = await ekabridge(environment, "serve")
    assert status == 2
    assert out == ""
    for name in (
        "DATABASE_URL",
        "REDIS_URL",
        "ENCRYPTION_KEYS",
        "WEBHOOK_TOLERANCE_SECONDS",
        "EKA_CLIENT_SECRET",
        "EKA_PASSWORD",
        "WEBHOOK_SECRETS",
    ):
        assert f"EKABRIDGE_{name}" in err
    assert "go alone, without EKABRIDGE_EKA_CLIENT_ID" in err
    assert "c2VjcmV0" not in err
    assert "and-a-user" not in err


async def test_serve_wants_webhook_secrets_or_the_word_that_it_may_do_without(rig: Rig) -> None:
    without = {name: value for name, value in rig.environment.items() if "WEBHOOK_SECRETS" not in name}
    status, _, err = await ekabridge(without, "serve")
    assert status == 2
    assert "EKABRIDGE_WEBHOOK_SECRETS" in err
    rig.environment = without
    service = await rig.serve(webhook_allow_unsigned="true")
    assert (await (await rig.client(service)).get("/health/live")).is_success


async def test_a_lost_encryption_key_is_told_at_the_start(rig: Rig) -> None:
    environment = rig.environment | {"EKABRIDGE_ENCRYPTION_KEYS": encoded_key(b"x" * 32)}
    for command in (["serve", "--port", "9998"], ["worker", "--port", "9999"]):
        status, _, err = await ekabridge(environment, *command)
        assert status != 0
        assert "ENCRYPTION_KEYS" in err


async def test_doctor_is_content_with_a_good_installation(rig: Rig) -> None:
    service = await rig.serve()
    environment = rig.environment | {"EKABRIDGE_PUBLIC_URL": service.url}
    subscribed = await rig.vendor.post(
        "/notification/v1/connect/webhook/subscriptions",
        headers={"authorization": "Bearer sandbox-token"},
        json={"endpoint": f"{service.url}/webhooks/eka", "event_names": ["v2rx.completed"]},
    )
    assert subscribed.status_code == 201
    await rig.register_emr(await rig.client(service))
    status, out, err = await ekabridge(environment, "doctor")
    assert status == 0, out + err
    marks = {line[6:].partition(":")[0]: line[:4] for line in out.splitlines()}
    assert len(marks) == 10
    assert "ok    EkaScribe's server: hosted by EkaScribe\n" in out
    # What the stand-in cannot do, and how much room the machine of a test has, is not ours to say.
    assert marks.pop("EkaScribe's server") in {"ok  ", "note"}
    assert marks.pop("temporary files") in {"ok  ", "note"}
    assert set(marks.values()) == {"ok  "}, out


async def test_doctor_names_what_is_wrong(rig: Rig) -> None:
    environment = rig.environment | {
        "EKABRIDGE_REDIS_URL": "redis://127.0.0.1:1/0",
        "EKABRIDGE_EKA_CLIENT_SECRET": "wrong",
    }
    status, out, _ = await ekabridge(environment, "doctor")
    assert status == 1
    failed = [line.split("  ", 1)[1].split(":")[0] for line in out.splitlines() if line.startswith("FAIL")]
    assert failed == ["redis", "vendor and its credentials", "webhook subscription"]
    assert "wrong" not in out
    gone = rig.environment | {"EKABRIDGE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    status, out, _ = await ekabridge(gone, "doctor")
    assert status == 1
    assert "FAIL  database" in out


async def test_a_taken_port_is_told(rig: Rig) -> None:
    service = await rig.serve()
    port = service.url.rsplit(":", 1)[1]
    for command in ("serve", "worker", "sandbox"):
        status, _, err = await ekabridge(rig.environment, command, "--port", port)
        assert status != 0
        assert port in err or "address already in use" in err.lower()


async def test_a_destination_is_made_changed_and_rotated_by_commands(rig: Rig, tmp_path: Path) -> None:
    issued = make_authority().issue("bridge")
    (tmp_path / "certificate.pem").write_text(issued.certificate)
    (tmp_path / "key.pem").write_text(issued.key)
    environment = rig.environment | {
        "EKABRIDGE_DESTINATION_HEADERS": "X-Key: hunter2, and more\nX-Other: 1",
        "EKABRIDGE_DESTINATION_CLIENT_SECRET": "hunter2",
    }

    async def run(*arguments: str) -> dict[str, Any]:
        status, out, err = await ekabridge(environment, "destination", *arguments, "--json")
        assert status == 0, err
        assert "hunter2" not in out
        return json.loads(out)  # type: ignore[no-any-return]

    oauth2 = ("--oauth2-token-url", "http://127.0.0.1:9/token", "--oauth2-client-id", "bridge")
    wishes = (
        "--payload",
        "reference",
        "--format",
        "fhir-r4",
        "--timeout-seconds",
        "3",
        "--rate-per-second",
        "9",
    )
    made = await run("add", rig.tenant_id, "http://127.0.0.1:9/hooks", *wishes, *oauth2, "--disabled")
    assert (made["payload"], made["format"], made["timeout_seconds"]) == ("reference", "fhir-r4", 3)
    assert (made["rate_per_second"], made["enabled"], made["auth"]["client_id"]) == (9, False, "bridge")
    assert made["headers"] == {"X-Key": "***", "X-Other": "***"}
    pem = ("--certificate", str(tmp_path / "certificate.pem"), "--private-key", str(tmp_path / "key.pem"))
    changed = await run("change", rig.tenant_id, made["id"], *pem, "--enabled", "--clear", "timeout_seconds")
    assert (changed["auth"], changed["enabled"], changed["timeout_seconds"]) == ({"type": "mtls"}, True, None)
    assert changed["payload"] == "reference"
    rotated = await run("rotate-secret", rig.tenant_id, made["id"], "--overlap-seconds", "0")
    assert rotated["secret"] != made["secret"]
    refusals = [
        (("--timeout-seconds", "0"), "timeout_seconds"),
        (("--header", "host: a"), "only ekabridge itself sets"),
        (("--oauth2-client-id", "bridge"), "token_url"),
        (("--url", "ftp://a.example/"), "destination_forbidden"),
    ]
    for arguments, said in refusals:
        change = ("destination", "change", rig.tenant_id, made["id"], *arguments)
        status, _, err = await ekabridge(environment, *change)
        assert status != 0
        assert said in err
        assert "hunter2" not in err


async def test_doctor_says_that_a_token_cannot_be_had(rig: Rig) -> None:
    url = f"{rig.vendor_url}/nothing"
    oauth2 = ("--oauth2-token-url", url, "--oauth2-client-id", "b", "--oauth2-client-secret", "hunter2")
    add = ("destination", "add", rig.tenant_id, "http://127.0.0.1:9/", *oauth2, "--json")
    status, added, err = await ekabridge(rig.environment, *add)
    assert status == 0, err
    _, out, _ = await ekabridge(rig.environment, "doctor")
    (line,) = (line for line in out.splitlines() if "OAuth token" in line)
    assert line.startswith("FAIL")
    assert json.loads(added)["id"] in line
    assert "refuses our credentials (404)" in line
    assert "hunter2" not in out


async def test_a_secret_that_cannot_be_written_is_told_with_its_remedy(rig: Rig) -> None:
    for command, remedy in (
        (("key", "add", rig.tenant_id), "ekabridge key revoke"),
        (
            ("destination", "add", rig.tenant_id, "http://127.0.0.1:9/h"),
            "ekabridge destination rotate-secret",
        ),
    ):
        full = os.open("/dev/full", os.O_WRONLY)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.cli.main",
            *command,
            env=rig.environment,
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(full)
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 1
        assert remedy in errors.decode()
        assert "Traceback" not in errors.decode()
