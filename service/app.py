"""The service process: the ASGI application with its routes and middleware."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Self

from litestar import Litestar, Router
from litestar.di import Provide

from service.api.authentication import authenticate, provide_principal, provide_services
from service.api.health import live, metrics, ready
from service.api.medscribe.error_envelope import with_medscribe_errors
from service.api.medscribe.routes import MEDSCRIBE_ROUTES
from service.api.middleware.admission_control import AdmissionControl
from service.api.middleware.load_monitor import LoadMonitor
from service.api.middleware.medscribe_cors import MedscribeCors
from service.api.middleware.request_context import RequestContextMiddleware
from service.api.middleware.security_headers import SecurityHeaders
from service.api.middleware.session_trace import SessionTraces
from service.api.middleware.shutdown_response import ShutdownResponse
from service.api.middleware.unauthenticated_limits import UnauthenticatedLimits
from service.api.openapi import documentation_asset, documentation_page, openapi_config
from service.api.problem_responses import HANDLERS
from service.api.request_classes import handler_of
from service.api.v1.audio import put_audio
from service.api.v1.audit import audit_router
from service.api.v1.deliveries import deliveries_router
from service.api.v1.destinations import destinations_router
from service.api.v1.documents import documents_router
from service.api.v1.ledger import ledger_router
from service.api.v1.session_events import follow_events
from service.api.v1.session_stream import stream_audio
from service.api.v1.session_updates import session_updates_router
from service.api.v1.sessions import sessions_router
from service.api.vendor_webhooks import receive_tenant_webhook, receive_webhook
from service.bootstrap.service_process import open_services
from service.http_server import allow_open_files
from service.observability.logging import configure_logs
from service.observability.metrics_exposition import tell_build
from service.observability.tracing import start_tracing
from service.settings import SERVICE, Settings, load_settings

# Open files beside uploads and connections: PostgreSQL, Redis, calls to EkaScribe, Python itself.
_OTHER_FILES = 512


class _Fresh(Router):
    """A router that Litestar does not copy: a deep copy of all routes doubles the time of a start."""

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self


def create_app(settings: Settings) -> RequestContextMiddleware:
    """Make the service's ASGI application."""
    load_monitor, traces = LoadMonitor(), SessionTraces()
    unauthenticated_limits = UnauthenticatedLimits(address_header=settings.client_address_header)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_services(settings, traces, unauthenticated_limits) as services:
            app.state.services = services
            load_monitor.add_source(services.operations.database_wait)
            yield

    v1 = _Fresh(
        "/v1",
        route_handlers=[
            sessions_router,
            session_updates_router,
            documents_router,
            follow_events,
            put_audio,
            destinations_router,
            deliveries_router,
            ledger_router,
            audit_router,
        ],
        guards=[authenticate],
        dependencies={"principal": Provide(provide_principal, sync_to_thread=False)},
        security=[{"apiKey": []}],
    )
    app = Litestar(
        [
            v1,
            *MEDSCRIBE_ROUTES,
            stream_audio,
            receive_webhook,
            receive_tenant_webhook,
            live,
            ready,
            metrics,
            documentation_page,
            documentation_asset,
        ],
        dependencies={"services": Provide(provide_services, sync_to_thread=False)},
        exception_handlers=with_medscribe_errors(HANDLERS),
        lifespan=[lifespan],
        openapi_config=openapi_config(version("ekabridge")),
        logging_config=None,
    )
    admitted = AdmissionControl(
        ShutdownResponse(app), partial(handler_of, app), settings, load_monitor, unauthenticated_limits
    )
    return RequestContextMiddleware(SecurityHeaders(MedscribeCors(admitted, settings.voice_origins)), traces)


def app_from_environment() -> RequestContextMiddleware:
    """Make the application from the environment, in each process of `serve`."""
    settings = load_settings(os.environ, needs=SERVICE)
    configure_logs(settings.log_level)
    tell_build("serve")
    start_tracing("serve")
    # An upload has its client, EkaScribe and a file.
    allow_open_files(settings.max_connections + 2 * settings.max_uploads + _OTHER_FILES)
    return create_app(settings)
