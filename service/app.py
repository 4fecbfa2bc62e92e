"""The service process: opens what the doors need, wires it, and hands it down."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from litestar import Litestar, Router
from litestar.di import Provide

from service.api.access import authenticate, provide_services, provide_who
from service.api.audio import put_audio
from service.api.destinations import deliveries_router
from service.api.documentation import documentation_asset, documentation_page, openapi_config
from service.api.health import live, metrics, ready
from service.api.problems import HANDLERS
from service.api.request_ids import Edge
from service.api.services import Services
from service.api.sessions import sessions_router
from service.api.webhooks import receive_webhook
from service.domain.audio import AudioIntake
from service.domain.creation import SessionDesk
from service.domain.ids import Account
from service.domain.watch import StatusWatch
from service.domain.webhooks import WebhookIntake
from service.forwarding.guard import check_destination
from service.jobs.nudges import ArqNudges, open_redis, ping_redis
from service.logs import configure_logs
from service.settings import SERVICE, Settings, load_settings
from service.store.views import SessionViews
from service.wiring import make_session_life, open_rows, open_vendor, ping_store


def create_app(settings: Settings) -> Edge:
    """Make the service's ASGI application."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            yield

    v1 = Router(
        "/v1",
        route_handlers=[sessions_router, put_audio, deliveries_router],
        guards=[authenticate],
        dependencies={"who": Provide(provide_who, sync_to_thread=False)},
        security=[{"apiKey": []}],
    )
    return Edge(
        Litestar(
            [v1, receive_webhook, live, ready, metrics, documentation_page, documentation_asset],
            dependencies={"services": Provide(provide_services, sync_to_thread=False)},
            exception_handlers=HANDLERS,
            lifespan=[lifespan],
            openapi_config=openapi_config(version("ekabridge")),
            logging_config=None,
        )
    )


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Open the store, the vendor and Redis, none of which need be there yet."""
    redis = open_redis(settings.redis_url)
    nudges = ArqNudges(redis)
    async with open_rows(settings) as rows, open_vendor(settings, rows) as vendor:
        life = make_session_life(settings, rows, vendor)
        views = SessionViews(rows.database, rows.keyring, rows.sessions, settings.public_url or "")
        watch = StatusWatch(rows.sessions.statuses)

        async def check_url(url: str) -> None:
            await check_destination(url, allow_private=settings.allow_private_destinations)

        async def webhook_secrets(_: Account) -> tuple[str, ...]:
            return settings.webhook_secrets

        await nudges.start()
        try:
            yield Services(
                settings=settings,
                access=rows.access,
                desk=SessionDesk(
                    store=rows.sessions, idempotency=rows.idempotency, life=life, read=views.session
                ),
                life=life,
                audio=AudioIntake(store=rows.sessions, vendor=vendor),
                views=views,
                watch=watch,
                webhooks=WebhookIntake(store=rows.webhooks, nudges=nudges),
                destinations=rows.destinations,
                deliveries=rows.deliveries,
                check_url=check_url,
                webhook_secrets=webhook_secrets,
                ping_database=partial(ping_store, rows),
                ping_redis=partial(ping_redis, redis),
            )
        finally:
            await watch.stop()
            await nudges.stop()


def app_from_environment() -> Edge:
    """Make the application from the environment: what each worker process of `serve` runs."""
    settings = load_settings(os.environ, needs=SERVICE)
    configure_logs(settings.log_level)
    return create_app(settings)
