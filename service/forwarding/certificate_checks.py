"""The certificates that we present to a destination: what is refused of them when they are registered."""

from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificates

from schemas.destinations import MutualTls
from service.domain.errors import InvalidRequest


def check_certificate(auth: MutualTls) -> None:
    """Refuse a certificate or a key that cannot be presented. Raises InvalidRequest that names the field."""
    try:
        certificates = load_pem_x509_certificates(auth.certificate.encode())
    except ValueError:
        raise InvalidRequest("is no certificate in PEM", field="auth.certificate") from None
    try:
        key = load_pem_private_key(auth.private_key.encode(), password=None)
    except TypeError:
        raise InvalidRequest("must not need a passphrase", field="auth.private_key") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest("is no private key in PEM", field="auth.private_key") from None
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
