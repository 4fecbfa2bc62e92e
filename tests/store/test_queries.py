"""SQL lives in named files, each query with its purpose, each of them used (style.md, 3)."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from service.store.queries import queries, sql

SERVICE = Path(__file__).parents[2] / "service"
USES = {
    name
    for path in SERVICE.rglob("*.py")
    if "sandbox" not in path.parts
    for name in re.findall(r"""\bsql\(\s*["']([^"']+)["']""", path.read_text(encoding="utf-8"))
}


async def test_every_query_is_prepared_against_the_newest_schema(house):
    wrong = {}
    async with house.stores.database.connection() as connection:
        for name, statement in queries().items():
            numbers = {int(number) for number in re.findall(r"\$(\d+)", statement)}
            try:
                prepared = await connection.prepare(statement)
            except asyncpg.PostgresError as error:
                wrong[name] = str(error)
            else:
                if numbers != set(range(1, len(prepared.get_parameters()) + 1)):
                    wrong[name] = f"parameters are {sorted(numbers)}"
    assert wrong == {}


def test_every_query_is_used():
    assert sorted(set(queries()) - USES) == []


def test_every_name_that_the_code_asks_for_exists():
    assert sorted(USES - set(queries())) == []
    with pytest.raises(KeyError):
        sql("sessions.no_such_query")


@pytest.mark.parametrize("name", sorted(queries()))
def test_every_query_has_one_line_of_purpose_and_is_one_statement(name):
    first, second, *_ = queries()[name].splitlines()
    assert re.fullmatch(r"-- [A-Z].{6,}[.?]", first)
    assert not second.startswith("--")
    statement = queries()[name].removeprefix(first)
    assert statement.count(";") == 1
    assert statement.endswith(";")


def test_each_name_stands_for_one_query():
    marks = [
        f"{path.stem}.{name}"
        for path in sorted((SERVICE / "store" / "sql").glob("*.sql"))
        for name in re.findall(r"^-- name: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert sorted(marks) == sorted(queries())
