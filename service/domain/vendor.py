"""The port to the vendor: every call that the domain makes to EkaScribe."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from schemas.sessions import SessionChange
from service.domain.audio.models import Audio, AudioFormat
from service.domain.ids import Account, TemplateId, VendorSessionId
from service.domain.results.models import VendorResult
from service.domain.sessions.models import SessionPlan, VendorEnd, VendorSession
from service.domain.vendor_limits import Limits


class Vendor(Protocol):
    """Calls to EkaScribe. Each raises VendorRefused, VendorUnavailable or VendorTimeout."""

    async def create_session(self, plan: SessionPlan) -> VendorSession:
        """Create the session; this never repeats the call itself (docs/vendor.md#create-twice)."""
        ...

    async def upload_audio(
        self,
        account: Account,
        session_id: VendorSessionId,
        file_name: str,
        audio_format: AudioFormat,
        audio: Audio,
        before_repeat: Callable[[], Awaitable[None]],
    ) -> None:
        """Upload a chunk; this may repeat the call, as the same bytes under one name do no harm.

        `before_repeat` raises when the bytes must not be sent again.
        """
        ...

    async def end_session(self, account: Account, session_id: VendorSessionId, files_sent: int) -> VendorEnd:
        """End the session; this never repeats the call itself (docs/vendor.md#end-twice)."""
        ...

    async def get_session(
        self,
        account: Account,
        session_id: VendorSessionId,
        template_id: TemplateId,
        document_id: str | None = None,
    ) -> VendorResult:
        """Get the session's state and result, filtered by the template unless it is UNFILTERED.

        `document_id`, an id of the vendor, filters instead of the template: if a template has several
        documents, the filter by template returns any one of them (docs/vendor.md#same-template).
        """
        ...

    async def change_session(
        self, account: Account, session_id: VendorSessionId, change: SessionChange
    ) -> None:
        """Change only the given fields; harmless to repeat."""
        ...

    async def cancel_session(self, account: Account, session_id: VendorSessionId) -> None:
        """Cancel the session; harmless to repeat."""
        ...

    async def make_document(
        self, account: Account, session_id: VendorSessionId, template_id: TemplateId
    ) -> str | None:
        """Request an additional document, once, as a repeat makes two; return its id if it is known."""
        ...


class VendorLimits(Protocol):
    """The vendor's limits, as far as they are known."""

    async def limits(self) -> Limits:
        """Return the limits known now, without waiting for a vendor that is away."""
        ...
