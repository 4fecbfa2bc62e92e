"""The settings of the stand-in vendor, which control calls can change while it runs."""

from __future__ import annotations

from typing import Literal

import msgspec

from service.sandbox.vendor.characters import CHARACTERS, Character, CharacterName

Outcome = Literal[
    "completed",
    "partial",
    "failed",
    "expired",
    "never",
    "stt_failed",
    "silent",
    "partial_success",
    "empty",
    "late",
    "slow",
    "twice",
    "odd",
    "presigned",
]
Shape = Literal["nested", "flat", "flat-event-type", "v2", "protocol"]
Signing = Literal["raw", "compact", "compact-ascii", "wrong", "none"]
SignatureHeader = Literal["Eka-Webhook-Signature", "X-MSA-Signature"]


# The account of the first client, and of every static token of which nothing else is said.
FIRST_ACCOUNT = "sandbox"


class Endpoint(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A webhook receiver that needs no registration; without a `secret` its events are unsigned."""

    url: str
    secret: str | None = None


class VendorSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the stand-in vendor behaves; every field can be changed while it runs.

    `character` "hosted" follows the vendor's documentation, the two others what was recorded of its on-prem
    servers (docs/vendor.md#differences). Durations are seconds, sizes bytes.
    `transcript_with_filter` None means: as the character does (hosted yes, on-prem no).
    `stream_base_url` is where streams live if not here.
    Each of `clients` is an account of its own; `token_accounts` maps static tokens to one of them. `users`
    log in with a password to "onprem-2026-08" and share one account.
    `outcomes` maps session ids to an outcome and wins over `outcome`; the beginning of a template id wins
    over both for its document (`processing.PREFIXES`). Templates starting with "no_such" do not exist.
    `makes_documents` false is what the server of August 2026 really does (docs/vendor.md#never-made).
    """

    character: CharacterName = "hosted"
    clients: dict[str, str] = msgspec.field(default_factory=lambda: {"sandbox": "sandbox-secret"})
    users: dict[str, str] = msgspec.field(default_factory=lambda: {"sandbox": "sandbox-password"})
    static_tokens: list[str] = msgspec.field(default_factory=lambda: ["sandbox-token"])
    token_accounts: dict[str, str] = msgspec.field(default_factory=dict)
    access_token_seconds: int = 1800
    user_token_seconds: int = 900
    refresh_token_seconds: int = 2_592_000
    refresh_reuse_seconds: float = 60.0

    require_language_hint: bool = True
    chunk_max_bytes: int | None = None
    session_seconds: float = 3600.0
    answer_410: bool = True

    makes_documents: bool = True
    processing_seconds: float = 0.2
    slow_template_seconds: float = 1.0
    late_content_seconds: float = 5.0
    stt_fail_seconds: float = 120.0
    damage_seconds: float = 120.0
    long_poll_seconds: float = 0.0
    outcome: Outcome = "completed"
    outcomes: dict[str, Outcome] = msgspec.field(default_factory=dict)
    transcript_with_filter: bool | None = None
    completed_at_null_first: bool = False
    partial_while_pending: bool = False
    rerun_changes: bool = False
    rerun_reuses_document: bool = False

    stream_base_url: str | None = None
    stream_flush_seconds: float = 0.0
    stream_frame_delay_seconds: float = 0.0

    webhooks_enabled: bool = True
    webhook_endpoints: list[Endpoint] = msgspec.field(default_factory=list)
    webhook_shape: Shape = "v2"
    webhook_header: SignatureHeader = "Eka-Webhook-Signature"
    webhook_sign: Signing = "raw"
    webhook_copies: int = 1
    webhook_delay_seconds: float = 0.0
    webhook_timeout_seconds: float = 10.0
    webhook_all_outcomes: bool = False
    webhook_on_document: bool = False

    @property
    def traits(self) -> Character:
        """The words and lists of the chosen character."""
        return CHARACTERS[self.character]

    @property
    def is_hosted(self) -> bool:
        """Whether the published documentation decides, rather than a recording."""
        return self.character == "hosted"

    @property
    def is_july(self) -> bool:
        """Whether the on-prem server of July 2026 decides."""
        return self.character == "onprem-2026-07"

    @property
    def is_august(self) -> bool:
        """Whether the on-prem server of August 2026 decides."""
        return self.character == "onprem-2026-08"

    @property
    def filtered_answers_carry_transcript(self) -> bool:
        """Whether a filtered answer repeats the transcript (docs/vendor.md#filtered-transcript)."""
        if self.transcript_with_filter is None:
            return self.is_hosted
        return self.transcript_with_filter


def copy_settings(settings: VendorSettings) -> VendorSettings:
    """Make a deep copy, so that two vendors never share a list."""
    return msgspec.convert(msgspec.to_builtins(settings), VendorSettings)


def merge_settings(settings: VendorSettings, changes: dict[str, object]) -> None:
    """Change `settings` in place; raises `msgspec.ValidationError` and changes nothing on a bad field."""
    merged = msgspec.convert({**msgspec.to_builtins(settings), **changes}, VendorSettings)
    for name in VendorSettings.__struct_fields__:
        setattr(settings, name, getattr(merged, name))
