"""What the doctor says of the machines around an installation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.diagnostics import environment as surroundings
from service.diagnostics.environment import (
    Finding,
    Note,
    check_public_url,
    judge_redis,
    judge_server,
    temporary_files,
)
from service.sandbox.serving import serve_app
from service.sandbox.stack import free_port
from service.sandbox.vendor.app import VendorSettings, create_vendor
from service.settings import Settings
from service.store.server_info import Server

GOOD = Server(
    version=180_004,
    now=0.0,
    connections=97,
    connections_of_role=-1,
    statement_timeout_ms=0,
    is_standby=False,
)


def kind(found: Finding) -> str:
    return "ok" if found is None else "note" if isinstance(found, Note) else "FAIL"


@pytest.mark.parametrize(
    ("changes", "skew", "expected", "words"),
    [
        ({}, 0.5, "ok", ""),
        ({"version": 140_000}, 0.0, "ok", ""),
        ({"version": 130_022}, 0.0, "FAIL", "version 13"),
        ({"is_standby": True}, 0.0, "FAIL", "standby"),
        ({}, -151.0, "FAIL", "differ by 151 s"),
        ({}, 2.5, "note", "differ by 2.5 s"),
        ({"statement_timeout_ms": 5000}, 0.0, "FAIL", "5000 ms"),
        ({"statement_timeout_ms": 15_000}, 0.0, "ok", ""),
        ({"connections": 9}, 0.0, "FAIL", "one process may open 10"),
        ({"connections_of_role": 9}, 0.0, "FAIL", "allows 9 connections"),
        ({"connections": 39}, 0.0, "note", "room for 3 processes"),
        ({"connections": 40}, 0.0, "ok", ""),
    ],
)
def test_a_server_is_judged_by_the_worst_of_it(
    changes: dict[str, Any], skew: float, expected: str, words: str
) -> None:
    found = judge_server(msgspec.structs.replace(GOOD, **changes), Settings(), skew)
    assert kind(found) == expected
    assert words in (found.text if isinstance(found, Note) else found or "")


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "maxmemory": 100}, "ok"),
        ({"redis_version": "7.2.4", "maxmemory_policy": "allkeys-lru", "maxmemory": 0}, "ok"),
        ({"redis_version": "7.2.4", "maxmemory_policy": "allkeys-lru", "maxmemory": 100}, "note"),
        ({"redis_version": "6.0.16"}, "FAIL"),
        ({}, "ok"),
    ],
)
def test_a_redis_is_judged_by_its_own_words(info: dict[str, object], expected: str) -> None:
    assert kind(judge_redis(info)) == expected


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path)
    yield tmp_path
    tempfile.tempdir = before


def test_a_folder_that_is_full_or_missing_is_told(folder: Path) -> None:
    assert temporary_files(Settings(max_spool_bytes=1, chunk_max_bytes=1)) is None
    assert kind(temporary_files(Settings(max_spool_bytes=10**18, chunk_max_bytes=1))) == "note"
    assert kind(temporary_files(Settings(max_spool_bytes=10**18, chunk_max_bytes=10**18))) == "FAIL"
    folder.rmdir()
    found = temporary_files(Settings())
    assert isinstance(found, str)
    assert "cannot be written to" in found
    folder.mkdir()


async def test_the_way_in_leads_to_us_or_is_a_note() -> None:
    nobody = await check_public_url(f"http://127.0.0.1:{free_port()}")
    assert isinstance(nobody, Note)
    assert "is `serve` running?" in nobody.text
    async with serve_app(create_vendor(VendorSettings())) as url:
        other = await check_public_url(url)
    assert isinstance(other, Note)
    assert "is not ekabridge" in other.text
    assert [surroundings._is_loopback(host) for host in ("127.0.0.9", "::1", "localhost", "emr.example")] == [
        True,
        True,
        True,
        False,
    ]
