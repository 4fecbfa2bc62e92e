"""Decides whether a 401 or 403 of the vendor calls for a new token, by one table of recorded words.

The words are compared and never logged, because a body may hold any text. The table does not concern live
streams (streams.py): their address is the capability, no token is sent, and so no login can help.
"""

from typing import Literal

import msgspec

from service.domain.ids import DEFAULT_ACCOUNT, Account

# "log_in": get a newer token and repeat the call. "refused": the token is good, or is not the reason.
Meaning = Literal["log_in", "refused"]

_NO_USER_IN_TOKEN = "JWT missing uuid claim"  # noqa: S105 - the vendor's words
_MEANINGS: dict[tuple[int, str], Meaning] = {
    # On premises, July 2026: no token, or one that it does not know (docs/vendor.md#refusal-words).
    (401, "unauthorized"): "log_in",
    # On premises, August 2026: an expired token, no token, and one that it cannot read.
    (401, "token_expired"): "log_in",
    (403, "missing_token"): "log_in",
    (403, "invalid_token"): "log_in",
    # August 2026, process/template (docs/vendor.md#no-uuid-claim): a new token lacks the claim as well, so
    # the renewal would repeat for ever.
    (401, _NO_USER_IN_TOKEN): "refused",
    # An address of the vendor's storage, which has a token of its own (docs/vendor.md#presigned).
    (403, "invalid or expired storage token"): "refused",
}
_OTHERWISE: dict[int, Meaning] = {401: "log_in", 403: "refused"}


def asks_for_login(status: int, body: bytes) -> bool:
    """Whether an answer means that the same call would succeed with a newer token."""
    otherwise = _OTHERWISE.get(status)
    return otherwise is not None and _MEANINGS.get((status, _word(body)), otherwise) == "log_in"


def is_behind_login(status: int, body: bytes) -> bool:
    """Whether an answer to a call without a token only says that a token is needed."""
    return _MEANINGS.get((status, _word(body))) == "log_in"


def explanation(status: int, body: bytes) -> str:
    """Explain a refusal whose status is misleading; empty for all others."""
    if (status, _word(body)) == (401, _NO_USER_IN_TOKEN):
        return ": the token is good, this version of the server refuses the call to everybody"
    return ""


def remedy(account: Account, *, is_static: bool) -> str:
    """Say how an operator can repair a token that the vendor refuses."""
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
    """Return the text of `detail`, or the error's code."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if not isinstance(decoded, dict):
        return ""
    error = decoded.get("error")
    word = error.get("code") if isinstance(error, dict) else decoded.get("detail")
    return word if isinstance(word, str) else ""
