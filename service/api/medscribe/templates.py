"""The protocol's own list of templates: GET /voice/v1/templates (specification, section 8.2)."""

from litestar import get
from litestar.di import NamedDependency

from schemas.voice import VoiceTemplate, VoiceTemplates
from service.api.dependencies import Services
from service.api.request_classes import REQUEST_CLASS
from service.domain.models import Principal


# It calls EkaScribe: one that hangs must not fill the places of reads.
@get("/templates", opt={REQUEST_CLASS: "calls"})
async def list_templates(
    services: NamedDependency[Services], principal: NamedDependency[Principal]
) -> VoiceTemplates:
    """Answer the templates of the tenant's EkaScribe account, or its defaults where no list is to be had."""
    found = await services.templates.available(principal)
    return VoiceTemplates(
        templates=[VoiceTemplate(id=each.id, name=each.title, description=each.description) for each in found]
    )
