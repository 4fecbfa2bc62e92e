"""Whatever comes to the vendor's door is parsed or refused; it is signed only by who has the secret."""

from __future__ import annotations

import json
import time
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from service.eka.webhook_events import KNOWN, UNRECOGNISED, parse_event
from service.eka.webhook_signature import is_signed
from tests.support.api_calls import mac
from tests.support.examples import json_values

SECRET = "the vendor's key"
NOW = 1_790_000_000

words = st.sampled_from(
    ["event", "event_id", "event_type", "payload", "data", "transaction_id", "session_id", "status"]
)
names = st.sampled_from(
    ["v2rx.completed", "session.failed", "session.completed", "completed", "x.completed", ""]
)
ids = st.from_regex(r"ses_[0-9a-f]{24}", fullmatch=True) | st.text(max_size=80)
events = st.dictionaries(
    words,
    json_values | names | ids | st.dictionaries(words, json_values | names | ids, max_size=4),
    max_size=6,
)
# Header values as a server hands them over: bytes read as Latin-1.
header_texts = st.text(st.characters(max_codepoint=255), max_size=200)


def signed(body: bytes, at: int = NOW, secret: str = SECRET) -> str:
    """A right signature."""
    return f"t={at},v1={mac(body, secret, at)}"


def is_taken(header: str, body: bytes, *, now: float = NOW) -> bool:
    """Whether the door would take it."""
    return is_signed([header], body, [SECRET], now=now, tolerance_seconds=300)


@given(st.binary(max_size=400) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"payload":' * 20_000)
@example(b'"\\ud800"')
@example(b'{"event": "completed", "session_id": "\\ud800"}')
@example(b"\xff\xfe")
@example(b"1e999999")
def test_any_bytes_are_an_event_or_none(body: bytes) -> None:
    event = parse_event(body)
    if event is not None:
        assert event.kind in KNOWN | {UNRECOGNISED}
        assert event.session_id.isascii()
        assert len(event.session_id) <= 64


@given(events)
def test_any_object_is_an_event(event: dict[str, Any]) -> None:
    read = parse_event(json.dumps(event).encode())
    assert read is not None
    assert read.kind in KNOWN | {UNRECOGNISED}
    assert not read.session_id or read.session_id in json.dumps(event)


@given(header_texts, st.binary(max_size=60))
@example("t=1,v1=", b"")
@example(f"t={NOW},v1={'é' * 64}", b"{}")
@example(f"t={NOW}," + "v1=0," * 8 + "v1=0", b"{}")
@example(f"t={'9' * 12},v1=00", b"{}")
@example(f"t=²,v1={'0' * 64}", b"{}")
def test_any_header_is_answered_and_none_is_right_by_chance(header: str, body: bytes) -> None:
    assert is_taken(header, body) is False


@given(
    st.lists(
        st.sampled_from([f"t={NOW}", "t=", "v1=", "v0=1", "t", "=", "v1=ü"]) | header_texts, max_size=12
    ),
    st.binary(max_size=60),
)
def test_pieces_of_a_header_make_no_signature(pieces: list[str], body: bytes) -> None:
    assert is_taken(",".join(pieces), body) is False


@given(st.binary(max_size=200), st.integers(-300, 300))
def test_the_right_signature_is_taken_while_it_is_fresh(body: bytes, age: int) -> None:
    assert is_taken(signed(body), body, now=NOW + age)
    assert not is_taken(signed(body), body, now=NOW + 301)
    assert not is_taken(signed(body), body, now=NOW - 301)
    assert not is_taken(signed(body, secret="another key"), body)


@given(st.binary(max_size=60), st.data())
def test_a_signature_that_was_touched_is_wrong(body: bytes, data: st.DataObject) -> None:
    header = signed(body)
    place = data.draw(st.integers(0, len(header) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    touched = header[:place] + other + header[place + 1 :]
    if touched.lower() != header.lower():
        assert is_taken(touched, body) is False


@given(events, st.binary(max_size=200) | events.map(lambda event: json.dumps(event, indent=1).encode()))
@example({"a": 1}, b'{"a": 1}')
@example({"a": 1}, b'{"a":2,"a":1}')
@example({"session_id": "x"}, b'{"session_id":"y","session_id":"x"}')
@example(
    {"session_id": "x", "event": "completed"}, b'{"session_id":"x","event":"failed","event":"completed"}'
)
@example({"session_id": "é"}, '{"session_id": "é"}'.encode("utf-16"))
def test_another_body_under_a_captured_signature_says_the_same_or_is_refused(
    event: dict[str, Any], forged: bytes
) -> None:
    """Other spellings of one JSON are taken, as senders differ in them; none may mean something else."""
    for ascii_only in (True, False):
        body = json.dumps(event, separators=(",", ":"), ensure_ascii=ascii_only).encode(
            errors="surrogatepass"
        )
        if is_taken(signed(body), forged):
            assert parse_event(forged) in {parse_event(body), None}


@given(st.integers(-(2**70), 2**70))
def test_no_timestamp_outside_of_the_tolerance_is_taken(at: int) -> None:
    header = f"t={at},v1={mac(b'{}', SECRET, at)}"
    assert is_taken(header, b"{}", now=time.time()) is (abs(time.time() - at) <= 300)
