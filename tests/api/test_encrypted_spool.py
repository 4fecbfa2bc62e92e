"""The encrypted spool: what comes back, what lies on disk, and its budget."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import pytest

from service.api.encrypted_spool import EncryptedSpool, SpoolBudget


def test_any_part_comes_back() -> None:
    spool = EncryptedSpool(SpoolBudget(1_000_000))
    blocks = [secrets.token_bytes(size) for size in (1, 5000, 131_072, 7)]
    for block in blocks:
        assert spool.append(block)
    whole = b"".join(blocks)
    assert spool.size == len(whole)
    for start, end in (
        (0, len(whole)),
        (0, 1),
        (1, 5001),
        (4999, 6000),
        (len(whole) - 3, len(whole)),
        (9, 9),
    ):
        assert spool.read(start, end) == whole[start:end]
    spool.clear()
    assert spool.size == 0
    assert spool.append(b"again")
    assert spool.read(0, 5) == b"again"
    spool.clear()


def test_nothing_readable_lies_on_disk_and_no_name_leads_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = EncryptedSpool(SpoolBudget(1_000_000))
    assert spool.append(b"chest pain " * 100)
    assert list(tmp_path.iterdir()) == []
    file: Any = spool._file
    assert b"chest" not in os.pread(file.fileno(), 10_000, 0)
    spool.clear()


def test_a_budget_is_shared_and_given_back() -> None:
    budget = SpoolBudget(100)
    one, two = EncryptedSpool(budget), EncryptedSpool(budget)
    assert one.append(bytes(60))
    assert not two.append(bytes(60))
    assert two.size == 0
    one.clear()
    assert two.append(bytes(60))
    two.clear()
    assert budget.used_bytes == 0


def test_a_disk_that_fails_is_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    budget = SpoolBudget(100)
    assert not EncryptedSpool(budget).append(b"x")
    assert budget.used_bytes == 0
