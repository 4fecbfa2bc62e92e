"""The barest loop that posts with httpx2, a worker's peer. Takes URL, posts, tasks; the body on stdin."""

import asyncio
import sys

import httpx2
import uvloop


async def main(url: str, posts: int, tasks: int, body: bytes) -> None:
    """Post the body so often, so many at once."""
    left = iter(range(posts))
    limits = httpx2.Limits(max_connections=tasks, max_keepalive_connections=tasks)
    async with httpx2.AsyncClient(limits=limits, timeout=20, trust_env=False) as http:

        async def post() -> None:
            for number in left:
                answer = await http.post(
                    f"{url}/well/{number % tasks}", content=body, headers={"content-type": "application/json"}
                )
                answer.raise_for_status()

        await asyncio.gather(*(post() for _ in range(tasks)))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.stdin.buffer.read()))
