"""Everything that can go wrong, typed by who has to do something about it.

BridgeError
├── CallerMistake            the EMR can mend it
│   ├── InvalidRequest, Unauthenticated, RateLimited, Forbidden, NotFound, SignatureInvalid
│   ├── Conflict             the object is in another state: SessionEnded, ChunkConflict, AudioIncomplete …
│   └── AudioRefused         AudioEmpty, AudioFormatInvalid, ChunkTooLarge …
├── VendorError
│   ├── VendorRefused        it answered, and means no; again will not help
│   └── VendorUnreachable    VendorUnavailable (VendorLimited, VendorCallHeldBack), VendorTimeout,
│                            VendorFailure; again may help
├── DestinationForbidden     a URL that must not be called
├── TooManyWatchers          every place for those who wait is taken; again will help
├── Overloaded               this process has more in work than it can answer; again will help
├── ShuttingDown             this process stops; again will help
├── StoreUnavailable         PostgreSQL is away; again will help
└── EncryptionKeyMissing     another process has the key that this one lacks; again may reach it

`code` is stable and part of the API; `retryable` says whether the same call can succeed later.
The HTTP status of each code is in one table: schemas/problems.py.
"""

from typing import Any, ClassVar


class BridgeError(Exception):
    """The root; `detail` is a sentence for a developer and never holds patient data or a secret."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


class CallerMistake(BridgeError):
    """The request cannot be carried out as it is."""

    code = "invalid_request"


class InvalidRequest(CallerMistake):
    """The body, a parameter or a header breaks the contract; `errors` lists {field, message}."""


class Unauthenticated(CallerMistake):
    """No API key, or one that is unknown or revoked."""

    code = "unauthenticated"


class RateLimited(CallerMistake):
    """More calls than the limit allows. `retry_after_seconds`: when the next one may succeed."""

    code = "rate_limited"
    retryable = True

    def __init__(self, detail: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Forbidden(CallerMistake):
    """The key is good, its role is not enough."""

    code = "forbidden"


class NotFound(CallerMistake):
    """No such object of this tenant."""

    code = "not_found"


class IdempotencyKeyReused(CallerMistake):
    """The same Idempotency-Key came with another body."""

    code = "idempotency_key_reused"


class IdempotencyKeyInvalid(CallerMistake):
    """An Idempotency-Key that no header should hold."""

    code = "idempotency_key_invalid"


class IdempotencyInProgress(CallerMistake):
    """The first call with this Idempotency-Key is still running."""

    code = "idempotency_in_progress"
    retryable = True


class SessionEnded(CallerMistake):
    """The session takes no more audio."""

    code = "session_ended"


class SessionExpired(CallerMistake):
    """The session was not ended in time."""

    code = "session_expired"


class SessionNotReady(CallerMistake):
    """EkaScribe is not known to have the session yet."""

    code = "session_not_ready"
    retryable = True


class SessionErased(CallerMistake):
    """The session was erased, and everything of it."""

    code = "session_erased"


class SessionExists(CallerMistake):
    """A session of that id exists already, here or for somebody else."""

    code = "session_exists"


class SessionNotFinished(CallerMistake):
    """A further document needs a session that EkaScribe is done with."""

    code = "session_not_finished"


class StreamBusy(CallerMistake):
    """Another client is streaming to this session."""

    code = "stream_busy"
    retryable = True


class WrongUpload(CallerMistake):
    """Chunks for a streaming session, or a stream for one of chunks."""

    code = "wrong_upload_type"


class UploadNotSupported(CallerMistake):
    """A way of sending audio that this account's EkaScribe server does not offer."""

    code = "upload_not_supported"


class TemplatesFixed(CallerMistake):
    """Templates that change, at a server that makes documents only of those a session was created with."""

    code = "templates_fixed"


class ChunkConflict(CallerMistake):
    """Other bytes are, or are about to be, stored under this sequence."""

    code = "chunk_conflict"


class AudioIncomplete(CallerMistake):
    """Sequences are missing; `missing` lists them."""

    code = "audio_incomplete"


class AudioMissing(CallerMistake):
    """Nothing was uploaded."""

    code = "audio_missing"


class AudioEmpty(CallerMistake):
    """A chunk of no bytes."""

    code = "audio_empty"


class AudioTruncated(CallerMistake):
    """The body ended before the length that its header announced."""

    code = "audio_truncated"
    retryable = True


class AudioFormatInvalid(CallerMistake):
    """A Content-Type that EkaScribe does not take; `supported` lists what it does."""

    code = "invalid_audio_format"


class ChunkTooLarge(CallerMistake):
    """More bytes than CHUNK_MAX_BYTES."""

    code = "chunk_too_large"


class BodyTooLarge(CallerMistake):
    """A JSON body beyond the limit."""

    code = "body_too_large"


class ClientDisconnected(CallerMistake):
    """The client went away in the middle of a body; nobody reads this answer, the log does."""

    code = "client_disconnected"
    retryable = True


class BodyTimeout(CallerMistake):
    """The client stopped sending in the middle of a body."""

    code = "body_timeout"
    retryable = True


class SignatureInvalid(CallerMistake):
    """A webhook without a signature that is both right and fresh."""

    code = "signature_invalid"


class DestinationForbidden(CallerMistake):
    """A destination that must not be called: a private address, credentials in the URL, an odd scheme."""

    code = "destination_forbidden"


class AccountInUse(CallerMistake):
    """A tenant's own vendor account that sessions still need; only the command line changes accounts."""

    code = "account_in_use"
    retryable = True


class DeliverySettled(CallerMistake):
    """The delivery needs no retry."""

    code = "delivery_settled"


class DeliverySuperseded(CallerMistake):
    """A newer version of the document was delivered: the older one must not come after it."""

    code = "delivery_superseded"


class DeliveryAlreadyFiled(CallerMistake):
    """The EMR filed the delivery under another record id before."""

    code = "delivery_already_filed"


class TooManyDestinations(CallerMistake):
    """The tenant has as many destinations as it may (MAX_DESTINATIONS)."""

    code = "too_many_destinations"


class DestinationDisabled(CallerMistake):
    """The destination is off: nothing is sent to it."""

    code = "destination_disabled"


class VendorError(BridgeError):
    """EkaScribe did not do what we asked."""

    code = "vendor_error"


class VendorRefused(VendorError):
    """It answered and means no. `status` is its HTTP status, `vendor_code` its code, where it had one."""

    def __init__(self, detail: str, *, status: int, vendor_code: str | None) -> None:
        super().__init__(detail, vendor_status=status, vendor_code=vendor_code)
        self.status = status
        self.vendor_code = vendor_code


# The vendor's codes for a session that takes no more audio, no changes and no second end
# (docs/vendor.md#upload-errors, docs/vendor.md#patch).
ENDED_AT_VENDOR = frozenset({"session_ended", "session_completed", "session_already_committed"})


class VendorUnreachable(VendorError):
    """It could not be asked, or its answer did not come. `sent`: the request may have taken effect."""

    code = "vendor_unavailable"
    retryable = True

    def __init__(self, detail: str, *, sent: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.sent = sent
        self.retry_after_seconds = retry_after_seconds


# A vendor that asks for more patience than this while an EMR waits is reported, not waited for.
LONGEST_WAIT_SECONDS = 5.0


class VendorUnavailable(VendorUnreachable):
    """Refused connections, resets and 503."""


class VendorLimited(VendorUnavailable):
    """429: it limits the account's calls."""


class VendorCallHeldBack(VendorUnavailable):
    """Our own circuit breaker or queue holds the call back: nothing was sent, and this was no attempt."""

    def __init__(self, detail: str, *, retry_after_seconds: float) -> None:
        super().__init__(detail, sent=False, retry_after_seconds=retry_after_seconds)


class VendorFailure(VendorUnreachable):
    """It broke over our request: another 5xx, or an answer that cannot be read."""

    code = "vendor_error"


class VendorTimeout(VendorUnreachable):
    """No answer in time."""

    code = "vendor_timeout"


class TooManyWatchers(BridgeError):
    """As many wait here for something to happen as may."""

    code = "too_many_watchers"
    retryable = True


class Overloaded(BridgeError):
    """More is in work here, or of this tenant's, than can be answered in time."""

    code = "overloaded"
    retryable = True

    def __init__(self, detail: str, *, retry_after_seconds: float) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class ShuttingDown(BridgeError):
    """This process stops, and could not finish the call in time."""

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

    def __init__(self, detail: str, *, key_ids: list[str]) -> None:
        super().__init__(detail)
        self.key_ids = key_ids
