"""The recorded exchanges, and what can be read out of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "recordings"
FIRST, JULY, AUGUST = "first", "onprem-2026-07", "onprem-2026-08"
# The first file was of a server that already spoke as the one of August does.
CHARACTERS = {FIRST: AUGUST, JULY: JULY, AUGUST: AUGUST}
SESSION = re.compile(r"ses_[0-9a-zA-Z_]+")
NEVER_MADE = ("ses_does_not_exist_000", "ses_nope_nope_nope", "ses_short")
# Groups that speak of the same sessions; the first part of a label is the group otherwise.
SAME_AS = {
    "markdown_and_json": "success_empty",
    "unknown_status": "partial_success",
    "chunk_transcript": "documents",
    "session_audio": "documents",
    "suggested_medications": "documents",
}
Exchange = dict[str, Any]


def read_recordings() -> list[Exchange]:
    """Both files, each exchange with its `source`: the first file, or the server of the second."""
    found = []
    for name in ("eka.jsonl", "eka-2.jsonl"):
        for line in (FOLDER / name).read_text().splitlines():
            exchange = json.loads(line)
            found.append({**exchange, "source": exchange.get("server", FIRST)})
    return found


EXCHANGES = read_recordings()


def group_of(exchange: Exchange) -> tuple[str, str]:
    head = exchange["label"].split(".")[0]
    return exchange["source"], "whole" if exchange["source"] == FIRST else SAME_AS.get(head, head)


def session_in(exchange: Exchange) -> str | None:
    """The recorded session that an exchange is about."""
    request, response = exchange["request"], exchange["response"]
    body = (request["body"] or {}).get("json") or {}
    answer = (response["body"] or {}).get("json") or {}
    inner = answer.get("data") if isinstance(answer.get("data"), dict) else {}
    named = [
        *SESSION.findall(request["path"]),
        *(body.get(name) for name in ("session_id", "threadId") if isinstance(body.get(name), str)),
        (body.get("payload") or {}).get("transaction_id"),
        answer.get("session_id"),
        inner.get("session_id"),
    ]
    return next((each for each in named if each and each not in NEVER_MADE), None)


def answer_of(exchange: Exchange) -> dict[str, Any]:
    found: dict[str, Any] = (exchange["response"]["body"] or {}).get("json") or {}
    return found


def is_create(exchange: Exchange) -> bool:
    request = exchange["request"]
    return request["method"] == "POST" and request["path"].split("?")[0] == "/voice/v1/sessions"


def document_home(source: str, recorded: str) -> tuple[str, str] | None:
    """Session and template of a recorded document, wherever an answer of that server told them."""
    for exchange in EXCHANGES:
        if exchange["source"] != source:
            continue
        found = home_in(answer_of(exchange), recorded, None)
        if found is not None:
            return found
    return None


def home_in(body: Any, recorded: str, session: str | None) -> tuple[str, str] | None:
    if isinstance(body, list):
        return next((each for each in (home_in(part, recorded, session) for part in body) if each), None)
    if not isinstance(body, dict):
        return None
    session = body.get("session_id") or body.get("txn_id") or session
    if body.get("document_id") == recorded and "template_id" in body and session:
        return session, body["template_id"]
    for name, each in body.items():
        if isinstance(each, dict) and each.get("document_id") == recorded and session and "publish" in each:
            return (each.get("session_id") or session), each.get("template_id") or name
        found = home_in(each, recorded, session)
        if found is not None:
            return found
    return None
