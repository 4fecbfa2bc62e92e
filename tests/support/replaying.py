"""Replays recorded conversations against the stand-in, with ids of ours in place of the recorded ones."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.sandbox.conftest import CREATE, TOKEN, Bench
from tests.support.likeness import compare
from tests.support.recordings import (
    CHARACTERS,
    EXCHANGES,
    FIRST,
    JULY,
    Exchange,
    answer_of,
    document_home,
    is_create,
    session_in,
)
from tests.support.sounds import wav

PATIENCE_SECONDS = 5.0
MIME = {
    "wav": "audio/wav",
    "webm": "audio/webm;codecs=opus",
    "ogg": "audio/ogg",
    "mp3": "audio/mp3",
    "mp4": "audio/mp4",
    "m4a": "audio/m4a",
    "WAV": "audio/wav",
}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
Step = Callable[["Conversation", Exchange], Awaitable[None]]


@dataclass
class Conversation:
    """One group of exchanges in their recorded order."""

    bench: Bench
    source: str
    exchanges: list[Exchange]
    steps: dict[tuple[str, str], list[Step]]
    sessions: dict[str, str] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    complaints: dict[str, str | None] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    async def play(self) -> None:
        """Replay everything; `complaints` tells of each label what was unlike, or None."""
        await self.bench.settle(
            character=CHARACTERS[self.source],
            makes_documents=False,
            processing_seconds=0,
            long_poll_seconds=0,
            slow_template_seconds=3600,
        )
        for exchange in self.exchanges:
            try:
                await self.play_one(exchange)
                self.complaints[exchange["label"]] = None
            except (AssertionError, KeyError, StopIteration, httpx2.HTTPError) as error:
                self.complaints[exchange["label"]] = f"{type(error).__name__}: {error}"

    async def play_one(self, exchange: Exchange) -> None:
        self.notes["request"] = None
        self.notes["headers"] = self.notes.get("token", {})
        for key in (("", exchange["label"]), (self.source, exchange["label"])):
            for step in self.steps.get(key, []):
                await step(self, exchange)
        if self.notes.pop("answered", False):
            return
        await self.prepare(exchange)
        answer = await self.send(exchange)
        self.check(exchange, answer)
        if exchange["request"]["path"].endswith("/end") and answer.status_code == 202:
            await self.processed(str(session_in(exchange)))

    async def prepare(self, exchange: Exchange) -> None:
        """Do what the label's own exchange takes for granted: a session, its audio, its end."""
        recorded = session_in(exchange)
        if recorded is None or (is_create(exchange) and recorded not in self.sessions):
            return
        if recorded not in self.sessions:
            await self.open(recorded)
        body = answer_of(exchange)
        files = body.get("audio_files") or []
        if recorded not in self.ended and files:
            await self.upload_files(recorded, files)
        shows_end = body.get("status") in {"completed", "partial", "failed"} and "txn_id" not in body
        shows_end = shows_end or (body.get("status") == "processing" and files[:1] and "s3:" in files[0])
        is_read = exchange["request"]["method"] == "GET" and "/voice/v1/" in exchange["request"]["path"]
        if is_read and shows_end and recorded not in self.ended:
            await self.end(recorded)

    async def open(self, recorded: str, **fields: Any) -> str:
        """Make the session that a recorded one stands for, as its answers describe it."""
        body: dict[str, Any] = {}
        headers: dict[str, str] = {}
        for exchange in EXCHANGES:
            if exchange["source"] == self.source and session_in(exchange) == recorded:
                if is_create(exchange):
                    body, headers = exchange["request"]["body"]["json"], exchange["request"]["headers"]
                    break
                body = {**self.describe(answer_of(exchange)), **body}
        asked = self.translate({**CREATE, "model": "pro", "session_mode": "dictation", **body, **fields})
        if self.source == JULY:
            asked["patient_details"] = asked.pop("session_details", None) or asked.get("patient_details")
        answer = await self.bench.client.post("/voice/v1/sessions", json=asked, headers=headers)
        session_id = asked.get("session_id") or answer.json().get("session_id")
        self.sessions[recorded] = session_id
        return str(session_id)

    def describe(self, body: dict[str, Any]) -> dict[str, Any]:
        """Read a create call out of a recorded answer."""
        kept = body.get("data") if isinstance(body.get("data"), dict) else body
        more = kept.get("additional_data") if isinstance(kept.get("additional_data"), dict) else {}
        protocol = more.get("_protocol")
        found: dict[str, Any] = {}
        if protocol:
            found["templates"] = protocol["requested_templates"]
            found["upload_type"] = protocol["upload_type"]
            found["communication_protocol"] = protocol["communication_protocol"]
            found["additional_data"] = {name: each for name, each in more.items() if name != "_protocol"}
        if language := body.get("language_detected"):
            found["language_hint"] = ["auto_detect" if language == "au" else language]
        for name in ("patient_details", "session_details"):
            if kept.get(name):
                found[name] = kept[name]
        if kept.get("model_used"):
            found["model"] = kept["model_used"]
        return found

    async def upload_files(self, recorded: str, files: list[str]) -> None:
        session_id = self.sessions[recorded]
        seen = await self.bench.witness(session_id)
        have = {each["name"] for each in seen["files"]}
        for url in files:
            name = url.rpartition("/")[2]
            number, _, extension = name.partition(".")
            if name in have:
                continue
            if extension == "m4a" and url.startswith("s3:"):
                number, extension = "0", "wav"
            answer = await self.bench.upload(
                session_id, f"audio_{number}.{extension}", wav(1), MIME[extension]
            )
            assert answer.status_code == 200, answer.text

    async def end(self, recorded: str) -> None:
        assert (await self.bench.end(self.sessions[recorded])).status_code == 202
        await self.processed(recorded)

    async def processed(self, recorded: str) -> None:
        """Wait until the stand-in did what an end sets off."""
        self.ended.add(recorded)
        session_id = self.sessions[recorded]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (seen := await self.bench.witness(session_id))["runs"] < seen["end_calls"]:
            if seen["status"] != "processing":
                return
            assert time.monotonic() < deadline, "the end set nothing off"

    async def control(self, recorded: str, path: str = "", **body: Any) -> dict[str, Any]:
        """Write a state through the control API."""
        address = f"/_control/sessions/{self.sessions[recorded]}{path}"
        method = "POST" if path else "PATCH"
        answer = await self.bench.client.request(method, address, json=self.translate(body))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def send(self, exchange: Exchange) -> httpx2.Response:
        """Send the recorded request, its ids translated."""
        request = exchange["request"]
        override = self.notes.get("request") or {}
        headers = {
            "authorization": TOKEN["Authorization"],
            **request["headers"],
            **self.notes.get("headers", {}),
        }
        # White space around a header's value is no part of it (RFC 9110, 5.5), and the client sends none.
        headers = {name: value.strip() for name, value in headers.items()}
        path = self.address_in(self.translate(await self.resolve(request["path"])), exchange["label"])
        content, body = override.get("content"), request["body"] or {}
        if content is None and "json" in body:
            known = json.loads(await self.resolve(json.dumps(body["json"])))
            content = json.dumps(override.get("json") or self.translate(known)).encode()
            headers["content-type"] = request["headers"].get("content-type", "application/json")
        elif content is None and "text" in body:
            content = body["text"].encode()
        elif content is None and body.get("binary"):
            content = audio_of(body)
        client = self.bench.client
        return await client.request(request["method"], path, headers=headers, content=content, timeout=20)

    def address_in(self, path: str, label: str) -> str:
        """Give the signed address that this conversation was told, for a recorded one."""
        if "/blob/" not in path:
            return path
        address = self.addresses[path.partition("/documents/")[2].partition(".txt")[0]]
        return f"{address[:-4]}0000" if label.endswith("bad_token") else address

    def check(self, exchange: Exchange, answer: httpx2.Response) -> None:
        """Compare status, headers and body with the recording."""
        real = exchange["response"]
        assert answer.status_code == real["status"], answer.text
        for name, value in real["headers"].items():
            if name in {"content-length", "set-cookie"}:
                continue
            assert answer.headers.get(name) == value, name
        # The first file kept no cookies.
        cookies = [each.partition("=")[0] for each in real["headers"].get("set-cookie", [])]
        ours = [each.partition("=")[0] for each in answer.headers.get_list("set-cookie")]
        assert ours == cookies or self.source == FIRST
        body = real["body"] or {}
        if "json" not in body:
            assert answer.text == body.get("text", "")
            return
        found = answer.json()
        self.remember(found)
        session = answer_of(exchange).get("session_id")
        if is_create(exchange) and isinstance(session, str):
            self.sessions[session] = found.get("session_id")
            self.ended.discard(session)
        named = answer_of(exchange).get("document_id")
        if isinstance(named, str) and isinstance(found.get("document_id"), str):
            self.documents.setdefault(named, found["document_id"])
        made = found.get("txn_id")
        if "txn_id" in answer_of(exchange) and made:
            self.sessions.setdefault(answer_of(exchange)["txn_id"], made)
        compare(self.translate(body["json"]), found, self.learn)

    def learn(self, recorded: str, ours: str) -> str:
        """Say what a recorded id is called here; one that was never seen is what came."""
        if recorded in self.templates.values() or recorded in self.documents.values():
            return recorded
        return self.documents.setdefault(recorded, ours)

    def remember(self, found: Any) -> None:
        """Keep the newest address of each document."""
        if isinstance(found, list):
            for each in found:
                self.remember(each)
        if isinstance(found, dict):
            if isinstance(found.get("presigned_url"), str) and "document_id" in found:
                self.addresses[found["document_id"]] = found["presigned_url"]
            for each in found.values():
                self.remember(each)

    def translate(self, value: Any) -> Any:
        """Put ids of ours, and our address, in the place of the recorded ones."""
        text = json.dumps(value)
        text = text.replace("http://upstream.test", self.bench.url)
        text = text.replace("ws://upstream.test", self.bench.url.replace("http", "ws", 1))
        for known in (self.templates, self.documents, self.sessions):
            for recorded, ours in known.items():
                text = text.replace(json.dumps(recorded)[1:-1], json.dumps(ours)[1:-1])
        return json.loads(text)

    async def resolve(self, text: str) -> str:
        """Find out about each document in a request that no answer has named yet."""
        for recorded in UUID.findall(text):
            if recorded in self.templates or recorded in self.documents:
                continue
            home = document_home(self.source, recorded)
            if home is None or home[0] not in self.sessions:
                continue
            await self.find_document(recorded, *home)
        return text

    async def find_document(self, recorded: str, session: str, template: str) -> None:
        seen = await self.bench.witness(self.sessions[session])
        template_id = self.templates.get(template, template)
        if template_id == "transcript":
            self.documents[recorded] = seen["transcript_document"]
            return
        known = set(self.documents.values())
        for each in seen["documents"]:
            if each["template_id"] == template_id and each["document_id"] not in known:
                self.documents[recorded] = each["document_id"]
                return


def audio_of(body: dict[str, Any]) -> bytes:
    if body["bytes"] <= len(body["head_hex"]) // 2:
        return bytes.fromhex(body["head_hex"])
    if body["head_hex"].startswith("5249"):
        return wav(max(0.02, (body["bytes"] - 44) / 32_000))[: body["bytes"] + 12]
    return bytes.fromhex(body["head_hex"]) + b"noise"
