"""A token endpoint of OAuth 2.0."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from litestar import Litestar, Request, Response, post

from schemas.destinations import OAuth2
from service.domain.deliveries.models import DeliveryJob
from tests.support.makers import make_delivery_job


@dataclass
class Login:
    """A token endpoint and a destination behind it, which says what it saw."""

    url: str = ""
    life: Any = 3600
    status: int = 200
    body: dict[str, Any] | None = None
    refuses: set[str] = field(default_factory=set)
    asked: list[tuple[dict[str, str], dict[str, list[str]]]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Litestar:
        @post("/token")
        async def token(request: Request[Any, Any, Any]) -> Response[Any]:
            self.asked.append((dict(request.headers), parse_qs((await request.body()).decode())))
            self.arrived.set()
            await self.gate.wait()
            made = {
                "access_token": f"token-{len(self.asked)}",
                "token_type": "bearer",
                "expires_in": self.life,
            }
            return Response(self.body or made, status_code=self.status)

        @post("/hooks")
        async def hooks(request: Request[Any, Any, Any]) -> Response[None]:
            self.seen.append(request.headers.get("authorization", ""))
            status = 401 if self.seen[-1] in self.refuses else 204
            return Response(None, status_code=status)

        return Litestar([token, hooks], logging_config=None)

    def auth(self, **fields: Any) -> OAuth2:
        values: dict[str, Any] = {
            "token_url": f"{self.url}/token",
            "client_id": "bridge:1",
            "client_secret": "s3 cret",
            "scope": "notes.write",
        }
        return OAuth2(**(values | fields))

    def job(self, **fields: Any) -> DeliveryJob:
        return make_delivery_job(**({"url": f"{self.url}/hooks", "auth": self.auth()} | fields))
