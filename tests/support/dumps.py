"""Dumps of a database."""

import asyncpg


async def _dump_database(database_url: str) -> str:
    connection = await asyncpg.connect(database_url)
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        dumped = []
        for name in names:
            rows = await connection.fetch(f'SELECT * FROM "{name["tablename"]}"')
            for row in rows:
                dumped += [
                    value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    for value in row.values()
                ]
        return "\n".join(dumped)
    finally:
        await connection.close()
