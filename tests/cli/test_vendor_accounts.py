"""`ekabridge tenant account` and `ekabridge webhook` as an operator uses them: real processes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.support.commands import bare_environment, ekabridge
from tests.support.rig import Rig, open_rig

CONNECT = "/notification/v1/connect/webhook/subscriptions"
PROTOCOL = "/voice/v1/webhooks"
PUBLIC = "http://bridge.example"
SECRETS = ("hospital-secret", "hospital-signing-key", "hospital-token", "vendor-signing-key", "pässword")


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        opened.environment["EKABRIDGE_PUBLIC_URL"] = PUBLIC
        settings = {
            "clients": {"sandbox": "sandbox-secret", "hospital": "hospital-secret"},
            "static_tokens": ["sandbox-token", "hospital-token"],
            "token_accounts": {"hospital-token": "hospital"},
        }
        (await opened.vendor.patch("/_control/settings", json=settings)).raise_for_status()
        yield opened


async def ran(rig: Rig, *arguments: str, status: int = 0, **variables: str) -> tuple[str, str]:
    """Run a command that must end so; no secret may show, wherever it was given."""
    environment = rig.environment | {f"EKABRIDGE_{name}": value for name, value in variables.items()}
    found, out, err = await ekabridge(environment, *arguments)
    assert found == status, out + err
    for secret in SECRETS:
        assert secret not in out + err
    return out, err


async def as_json(rig: Rig, *arguments: str, **more: Any) -> Any:
    out, _ = await ran(rig, *arguments, "--json", **more)
    assert out.count("\n") == 1
    return json.loads(out)


async def at_vendor(rig: Rig, token: str, path: str) -> list[str]:
    """The endpoints that the vendor sends an account's webhooks to."""
    answer = await rig.vendor.get(path, headers={"authorization": f"Bearer {token}"})
    listed = answer.json() if path == CONNECT else answer.json()["webhooks"]
    return [each.get("endpoint", each.get("url")) for each in listed]


async def subscribe(rig: Rig, endpoint: str, token: str = "sandbox-token") -> None:
    answer = await rig.vendor.post(
        CONNECT, headers={"authorization": f"Bearer {token}"}, json={"endpoint": endpoint}
    )
    assert answer.status_code == 201


async def audited(database_url: str) -> list[tuple[str, str, dict[str, Any]]]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT tenant_id, action, facts FROM audit ORDER BY id")
        return [(row["tenant_id"], row["action"], json.loads(row["facts"])) for row in rows]
    finally:
        await connection.close()


async def test_a_tenant_s_account_from_birth_to_end(rig: Rig, database_url: str) -> None:
    tenant = await as_json(
        rig, "tenant", "add", "hospital",
        TENANT_EKA_CLIENT_ID="hospital", TENANT_EKA_CLIENT_SECRET="hospital-secret",
        TENANT_WEBHOOK_SECRETS="hospital-signing-key, older",
    )  # fmt: skip
    assert tenant["own_account"] is True
    listed = (await as_json(rig, "tenant", "list"))["items"]
    assert {each["id"]: each["own_account"] for each in listed} == {rig.tenant_id: False, tenant["id"]: True}

    shown = await as_json(rig, "tenant", "account", tenant["id"])
    assert (shown["id"], shown["own_account"]) == (tenant["id"], True)
    changed = await as_json(rig, "tenant", "account", tenant["id"], "--eka-token", "hospital-token")
    assert changed["own_account"] is True
    cleared = await as_json(rig, "tenant", "account", tenant["id"], "--clear")
    assert cleared["own_account"] is False
    out, _ = await ran(rig, "tenant", "account", tenant["id"])
    assert "the default EkaScribe account" in out

    entries = [entry for entry in await audited(database_url) if entry[0] == tenant["id"]]
    assert entries == [
        (tenant["id"], "tenant.created", {"credentials": "client", "webhook_secrets": 2}),
        (tenant["id"], "account.changed", {"credentials": "token"}),
        (tenant["id"], "account.cleared", {}),
    ]


async def test_a_user_of_a_server_on_premises_is_given_by_variables(rig: Rig, database_url: str) -> None:
    user = {"TENANT_EKA_USERNAME": "lab", "TENANT_EKA_PASSWORD": "pässword"}
    tenant = await as_json(rig, "tenant", "add", "ward", **user)
    assert tenant["own_account"] is True
    changed = await as_json(rig, "tenant", "account", rig.tenant_id, "--eka-username", "lab", **user)
    assert changed["own_account"] is True
    for mistake, words in (
        (["--eka-password", "pässword"], "go together"),
        (
            ["--eka-username", "lab", "--eka-password", "pässword", "--eka-token", "hospital-token"],
            "goes alone",
        ),
        (["--eka-username", "lab", "--eka-password", "pässword", "--eka-client-id", "x"], "without a client"),
    ):
        _, err = await ran(rig, "tenant", "account", rig.tenant_id, *mistake, status=1)
        assert words in err
    facts = [facts for _, action, facts in await audited(database_url) if "account" in action or facts]
    assert {"credentials": "user"} in facts
    assert all("lab" not in str(each) for each in facts)


async def test_a_tenant_with_its_own_account_dictates_through_it(rig: Rig) -> None:
    service = await rig.serve()
    await as_json(
        rig, "tenant", "account", rig.tenant_id, "--eka-client-id", "hospital",
        "--webhook-secret", "hospital-signing-key", TENANT_EKA_CLIENT_SECRET="hospital-secret",
    )  # fmt: skip
    api = await rig.client(service)
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    headers = {"authorization": "Bearer hospital-token"}
    found = await rig.vendor.get(f"/voice/v1/sessions/{session_id}", headers=headers)
    assert found.status_code == 202
    _, err = await ran(rig, "tenant", "account", rig.tenant_id, "--clear", status=1)
    assert "account_in_use" in err
    _, err = await ran(rig, "tenant", "account", rig.tenant_id, "--eka-token", "hospital-token", status=1)
    assert "account_in_use" in err
    await ran(rig, "tenant", "account", rig.tenant_id, "--eka-token", "hospital-token", "--force")
    assert (await api.post("/v1/sessions", json={})).status_code == 201


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tenant", "account", "ten_unknown"], "no such tenant"),
        (["tenant", "account", "ten_unknown", "--clear"], "no such tenant"),
        (["tenant", "account", "ten_unknown", "--eka-token", "hospital-token"], "no such tenant"),
        (["tenant", "account", "TENANT", "--webhook-secret", "hospital-signing-key"], "needs a token"),
        (["tenant", "account", "TENANT", "--eka-client-id", "hospital"], "go together"),
        (["tenant", "account", "TENANT", "--eka-token", "hospital-token\n"], "printable"),
        (["tenant", "account", "TENANT", "--clear", "--eka-token", "hospital-token"], "--clear goes"),
        (["tenant", "add", "x", "--eka-token", "hospital-token", "--eka-client-id", "i"], "goes alone"),
        (["webhook", "register", "--tenant", "ten_unknown"], "no such tenant"),
        (["webhook", "list", "--tenant", "TENANT"], "no such tenant"),
        (["webhook", "remove", "--tenant", "default"], "no such tenant"),
    ],
)
async def test_mistakes_are_told_and_change_nothing(rig: Rig, arguments: list[str], words: str) -> None:
    named = [rig.tenant_id if each == "TENANT" else each for each in arguments]
    status, out, err = await ekabridge(rig.environment, *named, "--json")
    assert status != 0
    assert out == ""
    assert words in err
    assert not any(secret in err for secret in SECRETS)
    (only,) = (await as_json(rig, "tenant", "list"))["items"]
    assert only["own_account"] is False


async def test_registering_twice_leaves_one_of_each_and_removing_leaves_the_others(rig: Rig) -> None:
    await subscribe(rig, "https://other.example/hook?token=hospital-token")
    ours = f"{PUBLIC}/webhooks/eka"
    outcomes = []
    for command in ("register", "register", "list", "remove", "remove"):
        report = await as_json(rig, "webhook", command)
        assert report["endpoint"] == ours
        outcomes.append([each["outcome"] for each in report["apis"]])
        if command == "list":
            assert [(each["api"], each["endpoint"], each["ours"]) for each in report["items"]] == [
                ("connect", "https://other.example/hook", False),
                ("connect", ours, True),
                ("protocol", ours, True),
            ]
            assert await at_vendor(rig, "sandbox-token", PROTOCOL) == [ours]
    assert outcomes == [[word] * 2 for word in ("registered", "already", "listed", "removed", "absent")]
    assert await at_vendor(rig, "sandbox-token", CONNECT) == [
        "https://other.example/hook?token=hospital-token"
    ]
    assert await at_vendor(rig, "sandbox-token", PROTOCOL) == []
    out, _ = await ran(rig, "webhook", "remove")
    assert "connect: was not registered" in out


async def test_a_tenant_s_webhooks_are_registered_in_its_own_account(rig: Rig, database_url: str) -> None:
    own = ("tenant", "account", rig.tenant_id, "--eka-token", "hospital-token")
    await ran(rig, *own)
    _, err = await ran(rig, "webhook", "register", "--tenant", rig.tenant_id, status=1)
    assert "no webhook secret" in err
    await ran(rig, *own, "--webhook-secret", "hospital-signing-key")
    await ran(rig, "webhook", "register", "--tenant", rig.tenant_id)
    ours = f"{PUBLIC}/webhooks/eka/{rig.tenant_id}"
    for path in (CONNECT, PROTOCOL):
        assert await at_vendor(rig, "hospital-token", path) == [ours]
        assert await at_vendor(rig, "sandbox-token", path) == []
    out, _ = await ran(rig, "webhook", "list", "--tenant", rig.tenant_id)
    assert out.count(f"  {ours}  active") == 2
    assert out.count("* ") == 2
    await ran(rig, "webhook", "remove", "--tenant", rig.tenant_id)
    assert await at_vendor(rig, "hospital-token", CONNECT) == []
    actions = [action for tenant_id, action, _ in await audited(database_url) if tenant_id == rig.tenant_id]
    assert actions[-2:] == ["webhook.registered", "webhook.removed"]


async def test_what_was_registered_arrives_signed_at_the_tenant_s_own_door(rig: Rig) -> None:
    service = await rig.serve()
    rig.vendor_app.state.vendor.settings.webhook_endpoints = []
    rig.environment["EKABRIDGE_PUBLIC_URL"] = service.url
    await rig.worker(reconcile_after_seconds="3600")
    await ran(
        rig, "tenant", "account", rig.tenant_id, "--eka-token", "hospital-token",
        "--webhook-secret", "hospital-signing-key",
    )  # fmt: skip
    await ran(rig, "webhook", "register", "--tenant", rig.tenant_id)
    api = await rig.client(service)
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    headers = {"content-type": "audio/wav"}
    await api.put(f"/v1/sessions/{session_id}/audio/0", content=b"audio", headers=headers)
    await api.post(f"/v1/sessions/{session_id}/end")
    answer = await api.get(f"/v1/sessions/{session_id}", params={"wait": 30})
    assert answer.json()["status"] == "completed"


@pytest.mark.parametrize("missing", [CONNECT, PROTOCOL])
async def test_one_of_the_two_apis_is_enough(rig: Rig, missing: str) -> None:
    await rig.fault(f"^{missing}", status=404, times=None)
    out, _ = await ran(rig, "webhook", "register")
    assert out.count("registered") == 1
    assert "not available" in out
    await ran(rig, "webhook", "list")
    await ran(rig, "webhook", "remove")


async def test_a_vendor_that_does_not_answer_well_is_a_failure_that_is_told(rig: Rig) -> None:
    await rig.fault(f"^{CONNECT}", status=503, times=None)
    report = await as_json(rig, "webhook", "register", status=1)
    assert [each["outcome"] for each in report["apis"]] == ["failed", "registered"]
    await rig.fault(f"^{PROTOCOL}", status=405, times=None)
    rig.vendor_app.state.vendor.faults.clear()
    await rig.fault("webhook", status=404, times=None)
    report = await as_json(rig, "webhook", "list", status=1)
    assert [each["outcome"] for each in report["apis"]] == ["unavailable", "unavailable"]


async def test_what_is_missing_is_said_before_anything_is_called(rig: Rig) -> None:
    without = {name: value for name, value in rig.environment.items() if not name.endswith("PUBLIC_URL")}
    for command in ("register", "list", "remove"):
        status, _, err = await ekabridge(without, "webhook", command)
        assert (status, err) == (2, "ekabridge: EKABRIDGE_PUBLIC_URL is missing\n")
    _, err = await ran(rig, "webhook", "register", status=1, WEBHOOK_SECRETS="")
    assert "EKABRIDGE_WEBHOOK_SECRETS" in err
    assert (await rig.vendor.get("/_control/calls/count", params={"method": "POST"})).json() == {"count": 0}
    status, _, err = await ekabridge(bare_environment(), "webhook", "register")
    assert status == 2
    assert err.count("is missing") == 3


async def doctor(rig: Rig, status: int) -> dict[str, str]:
    """What the doctor says of each account, by the line's name."""
    out, _ = await ran(rig, "doctor", status=status)
    said = {}
    for line in out.splitlines():
        mark, rest = line[:4].strip(), line[6:]
        name, _, problem = rest.partition(": ")
        said[name] = f"{mark} {problem}".strip()
    return {name: word for name, word in said.items() if "vendor" in name or "webhook" in name}


async def test_the_doctor_looks_at_every_account_and_says_where_webhooks_go(rig: Rig) -> None:
    await as_json(
        rig, "tenant", "add", "St. Mary", "--eka-token", "hospital-token", "--webhook-secret", "older"
    )
    mary = (await as_json(rig, "tenant", "list"))["items"][-1]["id"]
    await subscribe(rig, f"https://old.example/webhooks/eka/{mary}?token=hospital-secret", "hospital-token")
    found = await doctor(rig, 1)
    assert found["vendor and its credentials"] == found["vendor and its credentials of St. Mary"] == "ok"
    assert "ekabridge webhook register" in found["webhook subscription"]
    assert (
        f"it sends them to https://old.example/webhooks/eka/{mary};"
        in found["webhook subscription of St. Mary"]
    )
    assert found["webhook subscription of St. Mary"].endswith(f"ekabridge webhook register --tenant {mary}")

    await ran(rig, "webhook", "register")
    await ran(rig, "webhook", "register", "--tenant", mary)
    assert set((await doctor(rig, 0)).values()) == {"ok"}

    await ran(rig, "tenant", "account", mary, "--eka-token", "wrong")
    found = await doctor(rig, 1)
    assert found["vendor and its credentials"] == found["webhook subscription"] == "ok"
    assert found["vendor and its credentials of St. Mary"].startswith("FAIL")


async def test_the_doctor_is_content_with_the_protocol_s_subscription_alone(rig: Rig) -> None:
    await rig.fault(f"^{CONNECT}", status=404, times=None)
    await ran(rig, "webhook", "register")
    assert (await doctor(rig, 0))["webhook subscription"] == "ok"


async def test_the_doctor_does_not_ask_for_a_default_account_that_nobody_uses(rig: Rig) -> None:
    await ran(
        rig, "tenant", "account", rig.tenant_id, "--eka-token", "hospital-token", "--webhook-secret", "older"
    )
    await ran(rig, "webhook", "register", "--tenant", rig.tenant_id)
    for name in ("EKABRIDGE_EKA_CLIENT_ID", "EKABRIDGE_EKA_CLIENT_SECRET"):
        del rig.environment[name]
    assert set(await doctor(rig, 0)) == {
        "vendor and its credentials of first",
        "webhook subscription of first",
    }
