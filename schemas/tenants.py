"""Tenants and the defaults of their sessions."""

from datetime import datetime

from msgspec import Struct, field

from schemas.sessions import Language, Languages, Mode, Model
from schemas.templates import Templates


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
    """

    id: str
    name: str
    defaults: SessionDefaults
    own_account: bool
    keep_content_days: int | None
    keep_metadata_days: int | None
    created_at: datetime
