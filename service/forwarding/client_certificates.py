"""Client certificates of destinations: the check when one is registered, and the TLS context for calls."""

import asyncio
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import httpx2
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from schemas.destinations import MutualTls
from service.domain.errors import InvalidRequest

# Each context holds the list of certificate authorities, which is some hundred kilobytes.
_MAX_CONTEXTS = 64
# The TLS handshake calculates with the key on the event loop: 4,096 bits take some 10 ms, 14,112 bits 0.35 s.
_MAX_RSA_BITS = 4096

_Key = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey


def check_certificate(auth: MutualTls) -> None:
    """Check that a certificate and its key can be presented. Raises InvalidRequest that names the field."""
    try:
        certificates = load_pem_x509_certificates(auth.certificate.encode())
    except ValueError:
        raise InvalidRequest("is no certificate in PEM", field="auth.certificate") from None
    key = _load_key(auth.private_key)
    own = certificates[0]
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    try:
        certified = own.public_key().public_bytes(*form)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest("holds a key that cannot be read", field="auth.certificate") from None
    if certified != key.public_key().public_bytes(*form):
        raise InvalidRequest("is not the key of the first certificate", field="auth.private_key")
    if own.not_valid_after_utc <= datetime.now(UTC):
        raise InvalidRequest("is no longer valid", field="auth.certificate")


def _check_key(private_key: str) -> None:
    """Refuse a key that was stored before keys had a limit. Raises ValueError."""
    try:
        _load_key(private_key)
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


def _load_key(private_key: str) -> _Key:
    """Read a private key without calculating with its numbers, which its owner chose.

    OpenSSL's validation of an RSA key tests its factors for primality: a minute for 15 KB of PEM.
    """
    try:
        key = load_pem_private_key(private_key.encode(), password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise InvalidRequest("must not need a passphrase", field="auth.private_key") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest("is no private key in PEM", field="auth.private_key") from None
    if not isinstance(key, _Key):
        raise InvalidRequest("must be an RSA, EC or Ed25519 key", field="auth.private_key")
    if isinstance(key, RSAPrivateKey):
        _check_rsa_size(key)
    return key


def _check_rsa_size(key: RSAPrivateKey) -> None:
    # Each number, not the modulus alone: nothing says that they belong together, and the handshake uses all.
    numbers = key.private_numbers()
    parts = (
        numbers.public_numbers.n,
        numbers.public_numbers.e,
        numbers.p,
        numbers.q,
        numbers.d,
        numbers.dmp1,
        numbers.dmq1,
        numbers.iqmp,
    )
    if max(part.bit_length() for part in parts) > _MAX_RSA_BITS:
        raise InvalidRequest(
            f"must not be an RSA key of more than {_MAX_RSA_BITS} bits", field="auth.private_key"
        )


class ClientCertificates:
    """Makes TLS contexts from client certificates, and caches the most recently used ones."""

    def __init__(self) -> None:
        self._contexts: dict[MutualTls, ssl.SSLContext] = {}

    async def context(self, auth: MutualTls) -> ssl.SSLContext:
        """Return the context that presents this certificate.

        Raises ssl.SSLError if OpenSSL refuses it, and ValueError for a key above the limit.
        """
        context = self._contexts.pop(auth, None)
        if context is None:
            # In a thread, because reading the authorities takes about ten milliseconds.
            context = await asyncio.to_thread(_make_context, auth)
        while len(self._contexts) >= _MAX_CONTEXTS:
            del self._contexts[next(iter(self._contexts))]
        self._contexts[auth] = context
        return context


def _make_context(auth: MutualTls) -> ssl.SSLContext:
    _check_key(auth.private_key)
    context = httpx2.create_ssl_context()
    with _temporary_file(f"{auth.private_key}\n{auth.certificate}\n".encode()) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _temporary_file(content: bytes) -> Iterator[str]:
    """Give content a temporary path, as OpenSSL reads keys from files only; on Linux it stays in memory."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("client-certificate")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        descriptor, path = tempfile.mkstemp()  # readable by its owner alone
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            yield path
        finally:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - mkstemp gives a path as text
