"""What `ekabridge encryption` shows: keys by their ids, counts, never a key or a value."""

from datetime import datetime
from typing import Literal

from msgspec import Struct, field

# first: it encrypts. unused: in the list, has encrypted nothing yet. old: decrypts what it encrypted.
# missing: it encrypted something, and is not in the list. retired: it was forgotten.
KeyState = Literal["first", "unused", "old", "missing", "retired"]


class EncryptionKey(Struct, frozen=True, kw_only=True):
    """A key that is in ENCRYPTION_KEYS or encrypted something once."""

    key_id: str
    state: KeyState
    first_seen_at: datetime | None
    retired_at: datetime | None
    values: int  # that are under it
    places: dict[str, int]  # the same by table and column


class ReencryptionPass(Struct, frozen=True, kw_only=True):
    """How far the re-encryption of a table is."""

    table: str
    key_id: str
    reencrypted: int = field(name="resealed")
    left_over: int
    unreadable: int
    started_at: datetime
    finished_at: datetime | None


class EncryptionStatus(Struct, frozen=True, kw_only=True):
    """Every key, and the last walk over each table."""

    keys: list[EncryptionKey]
    passes: list[ReencryptionPass] = field(name="walks")


class Forgotten(Struct, frozen=True, kw_only=True):
    """A key that was retired, and how many values were given up with it."""

    key_id: str
    retired_at: datetime
    given_up: int
