"""Lists all routes of the MedScribe protocol, under /voice and /connect-auth, for the composition root.

The protocol is described in docs/protocol.md and therefore left out of the OpenAPI document.
"""

from litestar import Router
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from service.api.authentication import provide_principal
from service.api.medscribe.audio import upload_audio, upload_form_with_file_name
from service.api.medscribe.authentication import authenticate_client
from service.api.medscribe.discovery import discover
from service.api.medscribe.form_uploads import post_form
from service.api.medscribe.login import log_in
from service.api.medscribe.session_updates import patch_session, process_requested_template, process_template
from service.api.medscribe.sessions import (
    create_session,
    end_session,
    get_session,
)
from service.api.medscribe.templates import list_templates

_authenticated_routes = Router(
    "/voice/v1",
    route_handlers=[
        create_session,
        get_session,
        end_session,
        patch_session,
        process_template,
        process_requested_template,
        list_templates,
        upload_audio,
        upload_form_with_file_name,
    ],
    guards=[authenticate_client],
    dependencies={"principal": Provide(provide_principal, sync_to_thread=False)},
    include_in_schema=False,
)
_form_routes = Router("/voice/v1", route_handlers=[post_form], include_in_schema=False)

MEDSCRIBE_ROUTES: list[ControllerRouterHandler] = [log_in, discover, _authenticated_routes, _form_routes]
