"""The driver's errors told apart: what a person has to mend, what passes, and what is a bug of ours."""

import asyncpg
import pytest

from service.domain.errors import InvalidRequest, StoreUnavailable
from service.store.database_state import _KINDS, DatabaseState, classify, store_error


def made(kind: type[BaseException]) -> BaseException:
    return kind("a text that may quote a patient")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (asyncpg.DiskFullError, "full"),
        (asyncpg.ReadOnlySQLTransactionError, "read_only"),
        (asyncpg.OutOfMemoryError, "exhausted"),
        (asyncpg.TooManyConnectionsError, "away"),
        (asyncpg.DeadlockDetectedError, "interrupted"),
        (asyncpg.SerializationError, "interrupted"),
        (asyncpg.QueryCanceledError, "interrupted"),
        (asyncpg.LockNotAvailableError, "interrupted"),
        (asyncpg.AdminShutdownError, "away"),
        (asyncpg.CannotConnectNowError, "away"),
        (asyncpg.PostgresIOError, "broken"),
        (asyncpg.DataCorruptedError, "broken"),
        (asyncpg.UndefinedTableError, "unfit"),
        (asyncpg.InvalidPasswordError, "unfit"),
        (ConnectionResetError, "away"),
        (TimeoutError, "away"),
    ],
)
def test_each_error_has_its_reason(kind, reason):
    error = made(kind)
    assert classify(error)[0] == reason
    ours = store_error(error)
    assert isinstance(ours, StoreUnavailable)
    assert "patient" not in ours.detail


@pytest.mark.parametrize("kind", [asyncpg.PostgresSyntaxError, asyncpg.UniqueViolationError, ValueError])
def test_a_bug_of_ours_stays_one(kind):
    assert classify(made(kind)) is None
    assert store_error(made(kind)) is None


def test_what_the_caller_wrote_is_the_caller_s():
    assert isinstance(store_error(made(asyncpg.CharacterNotInRepertoireError)), InvalidRequest)


def test_a_narrower_kind_stands_before_the_kind_that_it_is_one_of():
    for position, (kind, reason, _) in enumerate(_KINDS):
        hidden = [
            later for later, other, _ in _KINDS[position + 1 :] if issubclass(later, kind) and other != reason
        ]
        assert hidden == []


def test_a_trouble_is_remembered_for_half_a_minute_after_it_last_showed():
    at = [100.0]
    troubles = DatabaseState(lambda: at[0])
    assert troubles.latest() is None
    troubles.note(made(asyncpg.DiskFullError))
    at[0] += 20
    troubles.note(made(asyncpg.DiskFullError))
    troubles.note(made(asyncpg.DeadlockDetectedError))
    at[0] += 29
    assert troubles.latest() == "the database's disk is full"
    at[0] += 1
    assert troubles.latest() is None
