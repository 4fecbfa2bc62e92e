"""The output of `ekabridge encryption`: ids of keys and counts, never a key or a value."""

from datetime import datetime
from typing import Literal

from msgspec import Struct, field

# first: encrypts. unused: listed in ENCRYPTION_KEYS, has encrypted nothing. old: listed, and only decrypts.
# missing: values are under it, but the list lacks it. retired: an operator has removed it for good.
KeyState = Literal["first", "unused", "old", "missing", "retired"]


class EncryptionKey(Struct, frozen=True, kw_only=True):
    """A key that is in ENCRYPTION_KEYS or has encrypted a value."""

    key_id: str
    state: KeyState
    first_seen_at: datetime | None
    retired_at: datetime | None
    values: int  # encrypted with it
    places: dict[str, int]  # the values by table and column


class ReencryptionPass(Struct, frozen=True, kw_only=True):
    """The progress of the re-encryption of one table."""

    table: str
    key_id: str
    reencrypted: int = field(name="resealed")
    left_over: int
    unreadable: int
    started_at: datetime
    finished_at: datetime | None


class EncryptionStatus(Struct, frozen=True, kw_only=True):
    """Every key, and the last pass over each table."""

    keys: list[EncryptionKey]
    passes: list[ReencryptionPass] = field(name="walks")


class Forgotten(Struct, frozen=True, kw_only=True):
    """A retired key, and the number of values that became unreadable with it."""

    key_id: str
    retired_at: datetime
    given_up: int
