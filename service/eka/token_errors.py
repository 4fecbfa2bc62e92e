"""What a 401 or 403 of the vendor's means for our token: one table, with the words that were recorded.

The words are compared and never shown: a body may hold anything. A live stream is not concerned (streams.py):
its address is the capability, no token goes along, and so no login can mend a refusal.
"""

from typing import Literal

import msgspec

from service.domain.ids import DEFAULT_ACCOUNT, Account

# "log_in": get a newer token and make the call once more. "refused": the token is good, or not the matter.
Meaning = Literal["log_in", "refused"]

_NO_USER_IN_TOKEN = "JWT missing uuid claim"  # noqa: S105 - the vendor's words
_MEANINGS: dict[tuple[int, str], Meaning] = {
    # On premises, July 2026: no token, or one that it does not know (docs/vendor.md#refusal-words).
    (401, "unauthorized"): "log_in",
    # On premises, August 2026: an old token, none, and one that it cannot read.
    (401, "token_expired"): "log_in",
    (403, "missing_token"): "log_in",
    (403, "invalid_token"): "log_in",
    # August 2026, process/template (docs/vendor.md#no-uuid-claim): a new token has no such claim either, so
    # renewing would never end.
    (401, _NO_USER_IN_TOKEN): "refused",
    # An address of the vendor's storage, which has a token of its own (docs/vendor.md#presigned).
    (403, "invalid or expired storage token"): "refused",
}
_OTHERWISE: dict[int, Meaning] = {401: "log_in", 403: "refused"}


def asks_for_login(status: int, body: bytes) -> bool:
    """Whether an answer means that a newer token would make the same call work."""
    otherwise = _OTHERWISE.get(status)
    return otherwise is not None and _MEANINGS.get((status, _word(body)), otherwise) == "log_in"


def is_behind_login(status: int, body: bytes) -> bool:
    """Whether an answer to a call without a token says no more than that a token is needed."""
    return _MEANINGS.get((status, _word(body))) == "log_in"


def explanation(status: int, body: bytes) -> str:
    """Explain a refusal whose status misleads; empty for all others."""
    if (status, _word(body)) == (401, _NO_USER_IN_TOKEN):
        return ": the token is good, this version of the server refuses the call to everybody"
    return ""


def remedy(account: Account, *, is_static: bool) -> str:
    """Say what an operator can do about a token that the vendor refuses."""
    if not is_static:
        return "; it refuses a token that it has just given: ask EkaScribe what the account may do"
    if account == DEFAULT_ACCOUNT:
        return (
            "; it refuses EKABRIDGE_EKA_TOKEN: set a new one, or log in with EKABRIDGE_EKA_CLIENT_ID and"
            " EKABRIDGE_EKA_CLIENT_SECRET, on premises with EKABRIDGE_EKA_USERNAME and EKABRIDGE_EKA_PASSWORD"
        )
    return (
        "; it refuses the token of this tenant's own account: give a new one in EKABRIDGE_TENANT_EKA_TOKEN"
        f" to `ekabridge tenant account {account}`"
    )


def _word(body: bytes) -> str:
    """Return what `detail`, or the error's code, says."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if not isinstance(decoded, dict):
        return ""
    error = decoded.get("error")
    word = error.get("code") if isinstance(error, dict) else decoded.get("detail")
    return word if isinstance(word, str) else ""
