"""Secrets are compared in constant time: nowhere does `==` look at one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.support.pages import ROOT

SECRET = re.compile(
    r"secret|signature|digest|hash|hmac|capability|password|expected|(^|_)(mac|token|key)($|_)"
)
NO_SECRETS = {"key_id", "token_type"}
HARMLESS = {
    (
        "service/forwarding/client_certificates.py",
        "certified != key.public_key().public_bytes(*form)",
    ): "public keys",
    (
        "service/forwarding/oauth_tokens.py",
        "held.token == refused",
    ): "what we held before and what we hold now",
    ("service/domain/sessions/change_polling.py", "waiter.token != token"): "states of a session, no secret",
    ("service/store/idempotency.py", "known['request_hash'] != call.request_hash"): (
        "keyed hashes of two requests of the caller's own: it knows both requests and neither hash"
    ),
}


def named(node: ast.expr) -> Iterator[str]:
    """The names that an operand is made of, and the keys by which it is looked up."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and len(each.value) < 40:
            yield each.value


def is_plain(node: ast.expr) -> bool:
    """Whether an operand is a literal, a constant of a module, or a truth: nothing to be guessed from."""
    if isinstance(node, ast.Constant | ast.Compare):
        return True
    if isinstance(node, ast.Set | ast.Tuple | ast.List):
        return all(map(is_plain, node.elts))
    return isinstance(node, ast.Name) and node.id.isupper()


def comparisons() -> Iterator[tuple[str, str]]:
    """Comparisons of something whose name says that it is secret."""
    for path in sorted((ROOT / "service").rglob("*.py")):
        if "sandbox" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Compare):
                continue
            operands = [node.left, *node.comparators]
            if not all(isinstance(each, ast.Eq | ast.NotEq) for each in node.ops):
                continue
            if any(map(is_plain, operands)):
                continue
            names = {name.lower() for operand in operands for name in named(operand)} - NO_SECRETS
            if any(SECRET.search(name) for name in names):
                yield str(path.relative_to(ROOT)), ast.unparse(node)


def test_no_secret_is_compared_letter_by_letter() -> None:
    assert set(comparisons()) == set(HARMLESS)


def test_whatever_verifies_a_secret_compares_in_constant_time() -> None:
    for path in (
        "service/eka/webhook_signature.py",
        "service/store/streams.py",
        "service/store/medscribe_tokens.py",
    ):
        assert "hmac.compare_digest(" in (ROOT / path).read_text(), path
