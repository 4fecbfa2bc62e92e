"""By construction: routes, pages and commands read from the store and write only through the domain."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from service.api.dependencies import Services
from service.bootstrap.container import Stores
from service.store.queries import queries

ROOT = Path(__file__).parents[2] / "service"
EDGES = ("api", "cli", "console")
WRITES = re.compile(r"\b(INSERT INTO|UPDATE\s+\w+(\s+\w+)?\s+SET|DELETE FROM)\b")
# The names by which routes and commands know the store's objects.
HOLDERS = {"stores": Stores} | {
    f"services.{group}": kind
    for group, kind in get_type_hints(Services).items()
    if kind.__module__ == Services.__module__
}

_KEYS = "encryption keys belong to no tenant and have no audit trail"
# A call of an edge that writes without the domain → why.
ALLOWED = {
    "stores.encryption_keys.begin_command": _KEYS,
    "stores.encryption_keys.forget": _KEYS,
    "stores.reencryption.restart": _KEYS,
    "stores.reencryption.step": _KEYS,
}


def is_writing(statement: str) -> bool:
    return WRITES.search(re.sub(r"--.*", "", statement)) is not None


def functions(sources: dict[str, str]) -> dict[str, ast.AST]:
    """The store's functions and methods by their names, methods as `Class.method`."""
    found: dict[str, ast.AST] = {}
    for source in sources.values():
        for owner in ast.parse(source).body:
            is_class = isinstance(owner, ast.ClassDef)
            for each in owner.body if isinstance(owner, ast.ClassDef) else [owner]:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[f"{owner.name}.{each.name}" if is_class else each.name] = each
    return found


def names_used(name: str, function: ast.AST) -> set[str]:
    """The statements, functions, classes and methods of `self` that a function names."""
    kind = name.partition(".")[0]
    used = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sql":
            used.add(f"sql {ast.literal_eval(node.args[0])}")
        elif isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            used.add(f"{kind}.{node.attr}")
    return used


def writing_names(sources: dict[str, str]) -> set[str]:
    """The store's functions and `Class.method`s that write, directly or through one another.

    Opening a unit of work, whose methods write, counts as writing.
    """
    uses = {name: names_used(name, function) for name, function in functions(sources).items()}
    writes = {f"sql {name}" for name, statement in queries().items() if is_writing(statement)}
    while True:
        units = {name.partition(".")[0] for name in writes if "UnitRows." in name}
        more = {name for name, used in uses.items() if used & (writes | units)} - writes
        if not more:
            return writes
        writes |= more


def store_sources() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "store").glob("*.py"))}


def edge_sources() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for edge in EDGES
        for path in sorted((ROOT / edge).rglob("*.py"))
    }


def store_kind(holder: str, field: str) -> str | None:
    """The store's class that a field of `stores` or `services` holds; None for all others."""
    kind = get_type_hints(HOLDERS[holder]).get(field)
    return kind.__name__ if getattr(kind, "__module__", "").startswith("service.store.") else None


def writing_calls(source: str, writes: set[str]) -> set[str]:
    """The calls by which an edge writes past the domain, and uses of the store that hide one."""
    found: set[str] = set()
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("service.store"):
            found |= {f"import {each.name}" for each in node.names if each.name in writes}
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute)):
            continue
        words = [word.lstrip("_") for word in ast.unparse(node.value).split(".")]
        holder = next((name for name in (".".join(words[-2:]), words[-1]) if name in HOLDERS), "")
        kind = store_kind(holder, node.attr) if holder in HOLDERS else None
        if kind is None:
            continue
        parent: Any = parents[node]
        if isinstance(parent, ast.Attribute):
            if f"{kind}.{parent.attr}" in writes:
                found.add(f"{holder}.{node.attr}.{parent.attr}")
        elif not isinstance(parent, ast.Call | ast.keyword) and any(
            each.startswith(f"{kind}.") for each in writes
        ):
            found.add(f"{holder}.{node.attr} under another name")
    return found


def test_no_edge_writes_past_the_domain() -> None:
    writes = writing_names(store_sources())
    found = {call for source in edge_sources().values() for call in writing_calls(source, writes)}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("await stores.destinations.changing(actor)", {"stores.destinations.changing"}),
        (
            "await services.destinations.queries.changing(a)",
            {"services.destinations.queries.changing"},
        ),
        ("await self.services.operations.audit.insert_reads(a)", {"services.operations.audit.insert_reads"}),
        ("await stores.audit.changing(actor)", {"stores.audit.changing"}),
        ("await stores.deliveries.probe_now(a, b)", {"stores.deliveries.probe_now"}),
        ("store = stores.tenants", {"stores.tenants under another name"}),
        ("from service.store.audit import insert_audit_entry", {"import insert_audit_entry"}),
        ("await stores.tenants.list_tenants()", set()),
        ("await Tenants(stores.tenants).add(name)", set()),
        ("await services.destinations.changes.remove(actor, id)", set()),
    ],
)
def test_a_call_that_writes_is_seen(line: str, found: set[str]) -> None:
    assert writing_calls(line, writing_names(store_sources())) == found
