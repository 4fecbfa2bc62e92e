"""All errors of the service, grouped by the party that can correct them.

BridgeError
├── CallerMistake            the EMR can correct it; each is a direct child
│     the request            InvalidRequest, BodyTooLarge, BodyTimeout, ClientDisconnected, Idempotency…
│     the caller             Unauthenticated, Forbidden, RateLimited, SignatureInvalid
│     the object             NotFound, Session…, TemplatesFixed, StreamBusy, ChunkConflict, Delivery…,
│                            AccountInUse
│     the audio              Audio…, ChunkTooLarge, WrongUpload, UploadNotSupported
│     the destination        DestinationForbidden (a URL that must not be called), DestinationDisabled,
│                            TooManyDestinations
├── VendorError
│   ├── VendorRefused        it answered with a refusal; again will not help
│   └── VendorUnreachable    VendorUnavailable (VendorLimited, VendorCallHeldBack), VendorTimeout,
│                            VendorFailure; again may help
├── TooManyWatchers          too many calls wait in this process; again will help
├── Overloaded               this process has too much work; again will help
├── ShuttingDown             this process stops; again will help
├── StoreUnavailable         PostgreSQL is away; again will help
└── EncryptionKeyMissing     another process has the key that this one lacks; again may reach it

`code` is stable and part of the API; `retryable` says whether the same call can succeed later.
The HTTP status and the title of each code are in one table: schemas/problems.py.
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class BridgeError(Exception):
    """The root class; `detail` is a sentence for developers and never holds patient data or a secret."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


class CallerMistake(BridgeError):
    """The service cannot carry out the request as it is."""

    code = "invalid_request"


class InvalidRequest(CallerMistake):
    """The body, a parameter or a header breaks the contract; `errors` lists {field, message}."""


class Unauthenticated(CallerMistake):
    """The request has no API key, or one that is unknown or revoked."""

    code = "unauthenticated"


class RateLimited(CallerMistake):
    """The caller made more calls than its limit allows; it may try again after `retry_after_seconds`."""

    code = "rate_limited"
    retryable = True

    def __init__(self, detail: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Forbidden(CallerMistake):
    """The key is valid, but its role does not allow the call."""

    code = "forbidden"


class NotFound(CallerMistake):
    """The tenant has no such object."""

    code = "not_found"


class IdempotencyKeyReused(CallerMistake):
    """The same Idempotency-Key came with another body."""

    code = "idempotency_key_reused"


class IdempotencyKeyInvalid(CallerMistake):
    """The Idempotency-Key is too long or has characters that are not allowed."""

    code = "idempotency_key_invalid"


class IdempotencyInProgress(CallerMistake):
    """The first call with this Idempotency-Key is still running."""

    code = "idempotency_in_progress"
    retryable = True


class SessionEnded(CallerMistake):
    """The session has ended: it accepts no more audio or changes."""

    code = "session_ended"


class SessionExpired(CallerMistake):
    """The session expired before the EMR ended it."""

    code = "session_expired"


class SessionNotReady(CallerMistake):
    """EkaScribe has not confirmed the session, or a change of it, yet."""

    code = "session_not_ready"
    retryable = True


class SessionErased(CallerMistake):
    """The session was erased with all of its data."""

    code = "session_erased"


class SessionExists(CallerMistake):
    """A session with this id exists already, perhaps of another tenant."""

    code = "session_exists"


class SessionNotFinished(CallerMistake):
    """An additional document needs a session that EkaScribe has finished."""

    code = "session_not_finished"


class StreamBusy(CallerMistake):
    """Another client is streaming to this session."""

    code = "stream_busy"
    retryable = True


class WrongUpload(CallerMistake):
    """The client sent chunks to a streaming session, or a stream to a chunked session."""

    code = "wrong_upload_type"


class UploadNotSupported(CallerMistake):
    """The account's EkaScribe server does not offer this upload type."""

    code = "upload_not_supported"


class TemplatesFixed(CallerMistake):
    """The account's EkaScribe server uses only the templates that a session was created with."""

    code = "templates_fixed"


class ChunkConflict(CallerMistake):
    """Other bytes are stored, or being uploaded, under this sequence."""

    code = "chunk_conflict"


class AudioIncomplete(CallerMistake):
    """Sequences are missing; `missing` lists them."""

    code = "audio_incomplete"


class AudioMissing(CallerMistake):
    """The session has no audio."""

    code = "audio_missing"


class AudioEmpty(CallerMistake):
    """The chunk has no bytes."""

    code = "audio_empty"


class AudioTruncated(CallerMistake):
    """The body ended before the length that its header announced."""

    code = "audio_truncated"
    retryable = True


class AudioFormatInvalid(CallerMistake):
    """EkaScribe does not accept this Content-Type; `supported` lists the types that it accepts."""

    code = "invalid_audio_format"


class ChunkTooLarge(CallerMistake):
    """The chunk has more bytes than CHUNK_MAX_BYTES."""

    code = "chunk_too_large"


class BodyTooLarge(CallerMistake):
    """The JSON body is larger than the limit."""

    code = "body_too_large"


class ClientDisconnected(CallerMistake):
    """The client disconnected in the middle of a body; nobody reads this answer, but the log shows it."""

    code = "client_disconnected"
    retryable = True


class BodyTimeout(CallerMistake):
    """The client stopped sending in the middle of a body."""

    code = "body_timeout"
    retryable = True


class SignatureInvalid(CallerMistake):
    """The webhook has no signature that is both valid and recent."""

    code = "signature_invalid"


class DestinationForbidden(CallerMistake):
    """The service must not call the destination: private address, credentials in the URL, or other scheme."""

    code = "destination_forbidden"


class AccountInUse(CallerMistake):
    """Sessions still need the tenant's own vendor account; only the command line changes accounts."""

    code = "account_in_use"
    retryable = True


class DeliverySettled(CallerMistake):
    """The delivery needs no retry."""

    code = "delivery_settled"


class DeliverySuperseded(CallerMistake):
    """A newer version of the document was delivered, and the older one must not follow it."""

    code = "delivery_superseded"


class DeliveryAlreadyFiled(CallerMistake):
    """The EMR filed the delivery under another record id before."""

    code = "delivery_already_filed"


class TooManyDestinations(CallerMistake):
    """The tenant has MAX_DESTINATIONS destinations already."""

    code = "too_many_destinations"


class DestinationDisabled(CallerMistake):
    """The destination is disabled: the service sends nothing to it."""

    code = "destination_disabled"


class VendorError(BridgeError):
    """EkaScribe did not do what we asked."""

    code = "vendor_error"


class VendorRefused(VendorError):
    """EkaScribe refused the request; `status` is the HTTP status, `vendor_code` its error code, if any."""

    def __init__(self, detail: str, *, status: int, vendor_code: str | None) -> None:
        super().__init__(detail, vendor_status=status, vendor_code=vendor_code)
        self.status = status
        self.vendor_code = vendor_code


# The vendor's codes for a session that takes no more audio, no changes and no second end
# (docs/vendor.md#upload-errors, docs/vendor.md#patch).
ENDED_AT_VENDOR = frozenset({"session_ended", "session_completed", "session_already_committed"})


class VendorUnreachable(VendorError):
    """EkaScribe could not be reached or did not answer. `sent`: the request may have taken effect."""

    code = "vendor_unavailable"
    retryable = True

    def __init__(self, detail: str, *, sent: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.sent = sent
        self.retry_after_seconds = retry_after_seconds


# If the vendor asks for a longer wait than this while an EMR waits, the EMR gets the error at once.
LONGEST_WAIT_SECONDS = 5.0


class VendorUnavailable(VendorUnreachable):
    """EkaScribe refused or reset the connection, or answered 503."""


class VendorLimited(VendorUnavailable):
    """EkaScribe answered 429: it limits the account's calls."""


class VendorCallHeldBack(VendorUnavailable):
    """Our own circuit breaker or queue held the call back: we sent nothing, so this counts as no attempt."""

    def __init__(self, detail: str, *, retry_after_seconds: float) -> None:
        super().__init__(detail, sent=False, retry_after_seconds=retry_after_seconds)


class VendorFailure(VendorUnreachable):
    """EkaScribe failed to process the request: another 5xx, or an unreadable answer."""

    code = "vendor_error"


class VendorTimeout(VendorUnreachable):
    """EkaScribe did not answer in time."""

    code = "vendor_timeout"


class TooManyWatchers(BridgeError):
    """Too many calls of this process, or of the tenant, wait for changes."""

    code = "too_many_watchers"
    retryable = True


class Overloaded(BridgeError):
    """This process, or the tenant in it, has too many requests in work."""

    code = "overloaded"
    retryable = True

    def __init__(self, detail: str, *, retry_after_seconds: float) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class ShuttingDown(BridgeError):
    """This process stops and could not finish the call in time."""

    code = "shutting_down"
    retryable = True


class StoreUnavailable(BridgeError):
    """PostgreSQL cannot be reached."""

    code = "store_unavailable"
    retryable = True


class EncryptionKeyMissing(BridgeError):
    """A value is encrypted with a key that this process was not given, and that another process may have.

    Work that meets this error stays due, uncounted: a list of keys that is wrong in one process must cost no
    dictation.
    """

    code = "store_unavailable"
    retryable = True

    def __init__(self, detail: str, *, key_ids: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.key_ids = list(key_ids)
