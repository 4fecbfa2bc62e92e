"""Verifies the vendor's webhook signature, HMAC-SHA256 of `{t}.{body}` (docs/vendor.md#webhook-signature).

The setting `webhook_tolerance_seconds` (service/settings/settings.py) says how old a signature may be;
service/api/vendor_webhooks.py passes it in.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from itertools import islice

from msgspec import Struct

# More than any rotation needs; a larger number would be an attack on our CPU.
_MAX_SIGNATURES = 8
_MAX_HEADERS = 4
_MAX_HEADER_BYTES = 1024
_MAX_TIMESTAMP_DIGITS = 12


class SignatureHeader(Struct, frozen=True):
    """The fields of a signature header: the seconds since 1970 as text, and the signatures."""

    timestamp: str
    signatures: tuple[bytes, ...]


def parse_signature(header: str) -> SignatureHeader | None:
    """Parse a header; None if it is malformed. Unknown fields, such as `v0`, are ignored."""
    if len(header) > _MAX_HEADER_BYTES:
        return None
    timestamps, signatures = [], []
    for field in header.split(","):
        name, separator, value = field.strip().partition("=")
        if not separator:
            return None
        if name == "t":
            timestamps.append(value)
        elif name == "v1":
            signatures.append(value.lower().encode("utf-8"))
    if len(timestamps) != 1 or not 1 <= len(signatures) <= _MAX_SIGNATURES:
        return None
    timestamp = timestamps[0]
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _MAX_TIMESTAMP_DIGITS):
        return None
    return SignatureHeader(timestamp, tuple(signatures))


def is_signed(
    headers: Iterable[str], body: bytes, secrets: Sequence[str], *, now: float, tolerance_seconds: float
) -> bool:
    """Return whether any header is recent and signs this body with any of the secrets.

    A header is recent if its time differs from `now` by at most `tolerance_seconds`, to either side.

    The raw bytes are tried first. The vendor's own samples hash the compact re-serialised JSON instead, which
    differs for some senders and for non-ASCII text, so both compact forms are accepted too.
    """
    # Each header costs a hash of the whole body, so a request with more headers than a rotation needs is
    # refused.
    received = list(islice(headers, _MAX_HEADERS + 1))
    if len(received) > _MAX_HEADERS:
        return False
    parsed = [found for header in received if (found := parse_signature(header))]
    fresh = [found for found in parsed if abs(now - int(found.timestamp)) <= tolerance_seconds]
    if not fresh or not secrets:
        return False
    if _any_matches(fresh, [body], secrets):
        return True
    return _any_matches(fresh, _compact_forms(body), secrets)


def _any_matches(headers: Sequence[SignatureHeader], bodies: Sequence[bytes], secrets: Sequence[str]) -> bool:
    matches = False
    for header in headers:
        for body in bodies:
            signed = header.timestamp.encode() + b"." + body
            for secret in secrets:
                expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
                for signature in header.signatures:
                    matches |= hmac.compare_digest(expected, signature)
    return matches


def _compact_forms(body: bytes) -> list[bytes]:
    try:
        decoded = json.loads(body)
        forms = [
            json.dumps(decoded, separators=(",", ":"), ensure_ascii=ascii_only).encode()
            for ascii_only in (True, False)
        ]
    except (ValueError, RecursionError):
        return []
    return [form for form in dict.fromkeys(forms) if form != body]
