"""Tenants and the defaults of their sessions."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct, field

from schemas.sessions import Language, Languages, Mode, Model
from schemas.templates import Templates

# `$` alone would accept a final newline.
KeepAudio = Annotated[
    str,
    Meta(
        pattern=r"^(on_trouble|until_result|[1-9][0-9]{0,2})$(?!\n)",
        description="For how long audio is kept that EkaScribe has confirmed: `on_trouble` (not at all),"
        " `until_result`, or a number of days after the ending",
        examples=["until_result", "7"],
    ),
]


class SessionDefaults(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tenant's values for the fields that a call to create a session leaves out."""

    templates: Templates | None = None
    mode: Mode = "dictation"
    model: Model = "pro"
    languages: Languages = field(default_factory=lambda: ["en"])
    transcript_language: Language | None = None


class Tenant(Struct, kw_only=True, frozen=True):
    """A hospital, or a product of an EMR vendor; `own_account`: it has its own account at EkaScribe.

    Content and rows are kept for the given number of days after a session ends; null keeps them for ever.
    `keep_audio`: the tenant's own choice instead of the setting KEEP_AUDIO; null is the setting's.
    """

    id: str
    name: str
    defaults: SessionDefaults
    own_account: bool
    keep_content_days: int | None
    keep_metadata_days: int | None
    keep_audio: KeepAudio | None
    created_at: datetime
