"""`ekabridge doctor` at servers on premises: what it found, what that cannot do, and what mends a login."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.commands import ekabridge
from tests.support.onprem_peer import JULYS_TOKEN, LOGIN, USERS, OnPrem, open_onprem
from tests.support.rig import Rig, open_rig

SERVER = "EkaScribe's server"
LAB = {"EKA_USERNAME": "lab", "EKA_PASSWORD": USERS["lab"]}
SECRETS = (*USERS.values(), JULYS_TOKEN, "access-1-lab", "refresh-1-lab", "not-julys")


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        for name in ("EKABRIDGE_EKA_CLIENT_ID", "EKABRIDGE_EKA_CLIENT_SECRET"):
            del opened.environment[name]
        yield opened


async def doctor(rig: Rig, server: OnPrem, status: int = 0, **settings: str) -> dict[str, list[str]]:
    """What is said of each thing about EkaScribe, with its mark; no secret shows."""
    own = {"EKA_BASE_URL": server.url} | settings
    environment = rig.environment | {f"EKABRIDGE_{name}": value for name, value in own.items()}
    found, out, err = await ekabridge(environment, "doctor")
    assert found == status, out + err
    for secret in SECRETS:
        assert secret not in out + err
    said: dict[str, list[str]] = {}
    for line in out.splitlines():
        name, _, text = line[6:].partition(": ")
        said.setdefault(name, []).append(f"{line[:4].strip()} {text}".strip())
    return said


async def test_august_with_its_login(rig: Rig) -> None:
    async with open_onprem("2026-08") as server:
        said = await doctor(rig, server, **LAB)
        assert server.count(LOGIN) == 2  # the probe that names nobody, and ours
        assert {method for method, path, _, _ in server.calls if "/sessions/" in path} == {"GET"}
    kind, *lacks = said[SERVER]
    assert kind.startswith("note on premises, like the version of August 2026")
    assert [each.split(" (")[0].split(":")[0] for each in lacks] == [
        "note takes no live streams",
        "note does not detect languages",
        "note makes no further documents",
        "note makes no documents by itself",
    ]
    assert said["vendor and its credentials"] == ["ok"]
    assert said["webhook subscription"] == [
        "note has no webhooks: results come only by asking for them (RECONCILE_AFTER_SECONDS)"
    ]


async def test_july_with_its_token(rig: Rig) -> None:
    async with open_onprem("2026-07") as server:
        said = await doctor(rig, server, EKA_TOKEN=JULYS_TOKEN)
    assert [each[:40] for each in said[SERVER]] == [
        "note on premises, like the version of Ju",
        "note takes no live streams (upload `stre",
    ]
    assert said["vendor and its credentials"] == ["ok"]
    assert said["webhook subscription"][0].startswith("note has no webhooks")


WRONG: list[tuple[Any, dict[str, str], str]] = [
    ("2026-08", LAB | {"EKA_PASSWORD": "not-julys"}, "check username and password"),
    ("2026-08", {"EKA_TOKEN": "not-julys"}, "refuses EKABRIDGE_EKA_TOKEN"),
    (
        "2026-08",
        {"EKA_CLIENT_ID": "lab", "EKA_CLIENT_SECRET": "not-julys"},
        "has users with passwords instead",
    ),
    ("2026-07", {"EKA_TOKEN": "not-julys"}, "refuses EKABRIDGE_EKA_TOKEN"),
    ("2026-07", LAB, "some have one token instead"),
]


@pytest.mark.parametrize(("version", "settings", "words"), WRONG)
async def test_credentials_that_do_not_fit_are_told_with_what_mends_them(
    rig: Rig, version: Any, settings: dict[str, str], words: str
) -> None:
    async with open_onprem(version) as server:
        said = await doctor(rig, server, 1, **settings)
    (line,) = said["vendor and its credentials"]
    assert line.startswith("FAIL EkaScribe answered 40")
    assert words in line
    assert said[SERVER][0].startswith("note on premises")


async def test_a_server_that_has_webhooks_after_all_is_to_be_subscribed_to(rig: Rig) -> None:
    async with open_onprem("2026-08") as server:
        server.webhooks = (200, {"webhooks": []})
        said = await doctor(rig, server, 1, PUBLIC_URL="http://bridge.example", **LAB)
    assert "ekabridge webhook register" in said["webhook subscription"][0]


async def test_one_that_is_away_is_told_as_of_no_known_kind(rig: Rig) -> None:
    async with open_onprem("2026-08") as gone:
        pass
    said = await doctor(rig, gone, 1, **LAB)
    assert said[SERVER] == ["note of no known kind: EkaScribe cannot be reached"]
    assert said["vendor and its credentials"] == ["FAIL EkaScribe cannot be reached"]
