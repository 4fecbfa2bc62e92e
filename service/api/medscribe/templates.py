"""The route that lists templates: GET /voice/v1/templates (specification, section 8.2)."""

from litestar import get
from litestar.di import NamedDependency

from schemas.medscribe import VoiceTemplate, VoiceTemplates
from service.api.dependencies import Services
from service.api.request_classes import REQUEST_CLASS
from service.domain.api_keys.models import Principal


# This route calls EkaScribe, so it counts as a call: a hanging EkaScribe must not use up the limit of reads.
@get("/templates", opt={REQUEST_CLASS: "calls"})
async def list_templates(
    services: NamedDependency[Services], principal: NamedDependency[Principal]
) -> VoiceTemplates:
    """Return the templates of the tenant's EkaScribe account, or its defaults if no list is available."""
    templates = await services.medscribe.templates.available(principal)
    return VoiceTemplates(
        templates=[
            VoiceTemplate(id=each.id, name=each.title, description=each.description) for each in templates
        ]
    )
