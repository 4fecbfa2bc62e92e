"""The barest service on our libraries: Litestar under uvicorn, asyncpg's pool, an httpx2 client, one door.

It checks nothing and knows no schema. Takes its port; the database is what BENCH_DATABASE_URL names.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx2
import uvicorn
from litestar import Litestar, get


@get("/health/live", sync_to_thread=False)
def live() -> dict[str, str]:
    """Say that it lives."""
    return {"status": "ok"}


@asynccontextmanager
async def lifespan(_: Litestar) -> AsyncIterator[None]:
    """Open what such a service needs."""
    async with (
        asyncpg.create_pool(os.environ["BENCH_DATABASE_URL"], min_size=1),
        httpx2.AsyncClient(),
    ):
        yield


if __name__ == "__main__":
    uvicorn.run(
        Litestar([live], lifespan=[lifespan]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        loop="uvloop",
    )
