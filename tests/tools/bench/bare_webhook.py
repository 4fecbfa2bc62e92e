"""What would be written in five minutes for EkaScribe's webhooks, our peer: a handler with one INSERT.

It checks no signature and knows no duplicate. Run by uvicorn, with DATABASE_URL in the environment.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from litestar import Litestar, post
from litestar.datastructures import State

TABLE = """
CREATE TABLE IF NOT EXISTS bare_webhooks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id text NOT NULL,
    event text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
)
"""


@asynccontextmanager
async def _pool(app: Litestar) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as pool:
        await pool.execute(TABLE)
        app.state.pool = pool
        yield


@post("/webhooks/eka", status_code=200)
async def receive(data: dict[str, Any], state: State) -> dict[str, str]:
    """Insert it, and say so."""
    await state.pool.execute(
        "INSERT INTO bare_webhooks (session_id, event) VALUES ($1, $2)",
        data["data"]["transaction_id"],
        data["event"],
    )
    return {"status": "accepted"}


app = Litestar([receive], lifespan=[_pool], openapi_config=None, logging_config=None)
