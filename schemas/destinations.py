"""Where an EMR's documents go, and how: what is given and shown of a destination under /v1/destinations.

Secrets go in and never come out: headers are shown masked, credentials without what is secret in them, and
the signing secret once, in the answer that made it.
"""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.emr import TemplateName

DestinationEvent = Literal["document.ready", "document.failed", "session.failed", "session.expired"]
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
        """Hide the secret, wherever this is printed."""
        return "OAuth2(…)"


class MutualTls(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="mtls"):
    """A client certificate that we show at the TLS handshake; both as PEM, the key without a passphrase."""

    certificate: Annotated[str, Meta(min_length=1, max_length=16_384)]
    private_key: Annotated[str, Meta(min_length=1, max_length=16_384)]

    def __repr__(self) -> str:
        """Hide the key, wherever this is printed."""
        return "MutualTls(…)"


Auth = OAuth2 | MutualTls


class DestinationCreate(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where documents shall go; empty filters let everything through."""

    url: Url
    events: list[DestinationEvent] = []
    templates: list[TemplateName] = []
    payload: Payload = "full"
    format: Format = "ekabridge"
    headers: Headers | None = None
    timeout_seconds: TimeoutSeconds | None = None
    rate_per_second: RatePerSecond | None = None
    auth: Auth | None = None
    enabled: bool = True


class DestinationChange(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What shall change of a destination; what is left out stays.

    `headers` and `auth` are replaced as a whole. Null takes headers, auth, time-out and rate away; anywhere
    else it means the same as left out.
    """

    enabled: bool | None = None
    url: Url | None = None
    events: list[DestinationEvent] | None = None
    templates: list[TemplateName] | None = None
    payload: Payload | None = None
    format: Format | None = None
    headers: Headers | UnsetType | None = UNSET
    timeout_seconds: TimeoutSeconds | UnsetType | None = UNSET
    rate_per_second: RatePerSecond | UnsetType | None = UNSET
    auth: Auth | UnsetType | None = UNSET


class SecretRotation(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How long the secret before the new one signs, too."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=604_800)] = 86_400


class AuthShown(Struct, kw_only=True, frozen=True):
    """How we identify ourselves at a destination, without what is secret in it."""

    type: Literal["oauth2", "mtls"]
    token_url: str | UnsetType = UNSET
    client_id: str | UnsetType = UNSET
    scope: str | UnsetType | None = UNSET


class Destination(Struct, kw_only=True, frozen=True):
    """Where documents go; `secret` is there once, in the answer that made it.

    `headers` names the static headers with masked values; `previous_secret_until` says until when the secret
    before this one signs, too.
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
