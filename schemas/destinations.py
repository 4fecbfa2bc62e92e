"""Destinations: the endpoints that an EMR's documents go to, as /v1/destinations takes and shows them.

Responses never hold secrets: header values are masked, credentials lack their secret fields, and the signing
secret is only in the response that created it.
"""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.events import SessionEventType
from schemas.templates import TemplateName

Payload = Literal["full", "reference"]
Format = Literal["ekabridge", "fhir-r4"]
Url = Annotated[str, Meta(min_length=8, max_length=2048, examples=["https://emr.example/hooks/notes"])]
Headers = Annotated[
    dict[str, str],
    Meta(max_length=20, description="Sent with every call; stored encrypted", examples=[{"x-api-key": "k"}]),
]
TimeoutSeconds = Annotated[float, Meta(ge=0.1, le=120, description="How long one call may take")]
RatePerSecond = Annotated[float, Meta(ge=0.01, le=1000, description="At most so many calls a second")]


class OAuth2(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="oauth2"):
    """OAuth 2.0 client credentials (RFC 6749, 4.4): each call carries a bearer token from `token_url`."""

    token_url: Url
    client_id: Annotated[str, Meta(min_length=1, max_length=512)]
    client_secret: Annotated[str, Meta(min_length=1, max_length=4096)]
    scope: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None

    def __repr__(self) -> str:
        """Hide the secret in logs and tracebacks."""
        return "OAuth2(…)"


class MutualTls(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="mtls"):
    """A client certificate for the TLS handshake; both in PEM, the key without a passphrase."""

    certificate: Annotated[str, Meta(min_length=1, max_length=16_384)]
    private_key: Annotated[str, Meta(min_length=1, max_length=16_384)]

    def __repr__(self) -> str:
        """Hide the private key in logs and tracebacks."""
        return "MutualTls(…)"


Auth = OAuth2 | MutualTls


class DestinationCreate(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A new destination; an empty filter lets everything through."""

    # The default of a new field must be UNSET. An Idempotency-Key keeps a hash of the encoded request,
    # defaults included: any other default would change the hash of an unchanged request, and a repeat of a
    # call from before an upgrade would be refused as another request (tests/domain/test_idempotency.py).

    url: Url
    events: list[SessionEventType] = []
    templates: list[TemplateName] = []
    payload: Payload = "full"
    format: Format = "ekabridge"
    headers: Headers | None = None
    timeout_seconds: TimeoutSeconds | None = None
    rate_per_second: RatePerSecond | None = None
    auth: Auth | None = None
    enabled: bool = True


class DestinationChange(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Changes of a destination; absent fields stay.

    `headers` and `auth` are replaced as a whole. Null removes headers, auth, time-out and rate; for any other
    field it means the same as absent.
    """

    enabled: bool | None = None
    url: Url | None = None
    events: list[SessionEventType] | None = None
    templates: list[TemplateName] | None = None
    payload: Payload | None = None
    format: Format | None = None
    headers: Headers | UnsetType | None = UNSET
    timeout_seconds: TimeoutSeconds | UnsetType | None = UNSET
    rate_per_second: RatePerSecond | UnsetType | None = UNSET
    auth: Auth | UnsetType | None = UNSET


class SecretRotation(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The time for which the previous secret signs beside the new one."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=604_800)] = 86_400


class AuthShown(Struct, kw_only=True, frozen=True):
    """The way in which ekabridge authenticates at a destination, without secrets."""

    type: Literal["oauth2", "mtls"]
    token_url: str | UnsetType = UNSET
    client_id: str | UnsetType = UNSET
    scope: str | UnsetType | None = UNSET


class Destination(Struct, kw_only=True, frozen=True):
    """A destination; `secret` is only in the response that created it.

    `headers` lists the static headers with masked values; until `previous_secret_until` the previous secret
    signs beside the current one.
    """

    id: str
    url: str
    events: list[str]
    templates: list[str]
    payload: Payload
    format: Format
    headers: dict[str, str]
    timeout_seconds: float | None
    rate_per_second: float | None
    auth: AuthShown | None
    enabled: bool
    paused_reason: str | None
    previous_secret_until: datetime | None
    created_at: datetime
    secret: str | UnsetType = UNSET
