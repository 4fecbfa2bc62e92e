"""Encrypts values that the database must not reveal, and hashes with a key values that a query must find.

An encrypted value is one byte of format, four bytes of key id, twelve bytes of nonce, then AES-256-GCM's
ciphertext and tag. Its column and row are its AAD: a value that was moved to another row cannot be decrypted.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.domain.errors import EncryptionKeyMissing, StoreUnavailable
from service.store.database import Database
from service.store.queries import sql

T = TypeVar("T")

_FORMAT = b"\x01"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEAD = len(_FORMAT) + _KEY_ID_BYTES + _NONCE_BYTES
_HASH_KEY = "hash_key"


class DecryptionError(Exception):
    """A value cannot be decrypted: its key is not among ENCRYPTION_KEYS, or the value was changed."""


class MissingKeyError(DecryptionError, EncryptionKeyMissing):
    """Values are encrypted with keys that are not among ENCRYPTION_KEYS.

    A process with the keys can serve the call: a retry may reach one.
    """

    def __init__(self, key_ids: list[str], detail: str = "") -> None:
        named = " and ".join(key_ids)
        super().__init__(
            f"the encryption key {named} is not among ENCRYPTION_KEYS{f', {detail}' if detail else ''}",
            key_ids=key_ids,
        )


def secret_aad(name: str) -> str:
    """Return the AAD that binds a secret of the installation to its name."""
    return f"server_secret:{name}"


class Keyring:
    """The keys of ENCRYPTION_KEYS: the first encrypts, all of them decrypt.

    Logs and rows name a key by its id: eight hexadecimal digits of a hash, from which nobody learns the key.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise DecryptionError("there is no encryption key")
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._first = _key_id(keys[0])

    @property
    def first(self) -> str:
        """The id of the key that encrypts."""
        return self._first.hex()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys, in their order."""
        return tuple(key_id.hex() for key_id in self._ciphers)

    def encrypt(self, plain: bytes, aad: str) -> bytes:
        """Encrypt bytes and bind them to an AAD such as `session.details:ses_…`."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + self._first + nonce + self._ciphers[self._first].encrypt(nonce, plain, aad.encode())

    def decrypt(self, encrypted: bytes, aad: str) -> bytes:
        """Decrypt a value of this AAD; raises MissingKeyError or, for a damaged value, DecryptionError."""
        cipher = self._ciphers.get(encrypted[1 : 1 + _KEY_ID_BYTES])
        if len(encrypted) < _HEAD + _TAG_BYTES:
            raise DecryptionError(f"{aad}: the value was cut short")
        if encrypted[:1] != _FORMAT:
            raise DecryptionError(f"{aad}: the value is of an unknown form")
        if cipher is None:
            raise MissingKeyError([key_id_of(encrypted)])
        try:
            return cipher.decrypt(encrypted[1 + _KEY_ID_BYTES : _HEAD], encrypted[_HEAD:], aad.encode())
        except InvalidTag:
            raise DecryptionError(f"{aad}: the value was changed or moved") from None

    def encrypt_json(self, value: Any, aad: str) -> bytes:
        """Encrypt a value as JSON."""
        return self.encrypt(msgspec.json.encode(value), aad)

    def decrypt_json(self, encrypted: bytes, aad: str, kind: type[T]) -> T:
        """Decrypt JSON into a type."""
        return msgspec.json.decode(self.decrypt(encrypted, aad), type=kind)


def key_id_of(encrypted: bytes) -> str:
    """Return the id of the key that a value names; the value may be damaged."""
    return encrypted[1 : 1 + _KEY_ID_BYTES].hex()


def head_of(encrypted: bytes) -> bytes:
    """Return the head of an encrypted value, which is unique because the nonce is in it."""
    return encrypted[:_HEAD]


class Hasher:
    """Keyed hashes (HMAC-SHA256) under one secret of the installation, which outlives encryption keys.

    The first process that needs the secret makes it and stores it encrypted in the database.
    """

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._key: bytes | None = None

    async def load(self) -> None:
        """Read or make the secret; raises StoreUnavailable, or DecryptionError when its key is missing."""
        if self._key is not None:
            return
        row = await self._database.fetchrow(sql("encryption.server_secret"), _HASH_KEY)
        if row is None:
            made = self._keyring.encrypt(os.urandom(32), secret_aad(_HASH_KEY))
            await self._database.execute(sql("encryption.insert_server_secret"), _HASH_KEY, made)
            row = await self._database.fetchrow(sql("encryption.server_secret"), _HASH_KEY)
        if row is None:
            raise StoreUnavailable("the installation's secret could not be stored")
        self._key = self._keyring.decrypt(row["value_sealed"], secret_aad(_HASH_KEY))

    async def hash(self, purpose: str, value: bytes) -> bytes:
        """Return 32 bytes that equal values of one purpose share."""
        await self.load()
        assert self._key is not None  # noqa: S101 - load() raises otherwise
        return hmac.digest(self._key, purpose.encode() + b"\0" + value, hashlib.sha256)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"ekabridge key id\0" + key).digest()[:_KEY_ID_BYTES]
