"""Crafted RSA keys: whoever registers a client certificate chooses the numbers that we calculate with."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from schemas.destinations import MutualTls
from service.domain.errors import InvalidRequest
from service.forwarding.client_certificates import ClientCertificates, check_certificate
from tests.support.certificates import make_authority


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def rsa_pem(p: int, q: int, *, modulus: int | None = None, e: int = 65537) -> str:
    """A private key of these two primes, as PEM; with `modulus` one whose numbers do not belong together."""
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = (0, modulus or p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))
    sequence = b"".join(der(0x02, each.to_bytes(each.bit_length() // 8 + 1, "big")) for each in numbers)
    body = base64.encodebytes(der(0x30, sequence)).decode()
    kind = "RSA PRIVATE KEY"
    return f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n"


def certificate_of(public_key: rsa.RSAPublicKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=9))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM).decode()


def pair(key: str) -> MutualTls:
    loaded = serialization.load_pem_private_key(key.encode(), None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return MutualTls(certificate=certificate_of(loaded.public_key()), private_key=key)


# Primes that need no search; OpenSSL tests both for primality when it validates a key: for a minute.
HUGE = pair(rsa_pem(2**9689 - 1, 2**9941 - 1))
LARGE = pair(rsa_pem(2**2203 - 1, 2**2281 - 1))
# Its modulus is of an allowed size, and the handshake would calculate with its prime of 9,689 bits.
WIDE_PRIME = pair(rsa_pem(2**9689 - 1, 2**521 - 1, modulus=2**2203 - 1))


@pytest.mark.parametrize("auth", [HUGE, LARGE, WIDE_PRIME], ids=["huge", "large", "wide prime"])
def test_no_rsa_key_above_4096_bits_is_calculated_with(auth: MutualTls) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest, match="more than 4096 bits") as refused:
        check_certificate(auth)
    assert refused.value.extra["field"] == "auth.private_key"
    assert time.process_time() - started < 1


async def test_a_large_key_that_was_stored_before_is_not_presented() -> None:
    with pytest.raises(ValueError, match="4096 bits"):
        await ClientCertificates().context(LARGE)


def test_usual_keys_are_let_in() -> None:
    issued = make_authority().issue("client")
    check_certificate(MutualTls(certificate=issued.certificate, private_key=issued.key))
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    check_certificate(pair(key.decode()))
