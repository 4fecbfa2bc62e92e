from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.eka.webhook_events import KNOWN, VendorEvent, parse_event

ID = "ses_0123456789abcdef"

PUBLISHED = [
    (
        {
            "business_id": "b-1",
            "client_id": "c-1",
            "service_id": "v2rx",
            "event_id": "v2rx.completed",
            "payload": {
                "service": "v2rx",
                "event": "completed",
                "event_time": 1_750_000_000,
                "transaction_id": ID,
                "data": {},
            },
        },
        "nested",
        "completed",
    ),
    (
        {
            "service": "v2rx",
            "event": "v2rx.completed",
            "event_time": 1_750_000_000,
            "timestamp": 1_750_000_001,
            "transaction_id": ID,
            "client_id": "c-1",
            "business_id": "b-1",
            "data": {"session_id": "another"},
        },
        "flat",
        "completed",
    ),
    (
        {
            "service": "v2rx",
            "event_type": "v2rx.completed",
            "event_time": 1_750_000_000,
            "transaction_id": ID,
            "data": None,
        },
        "flat",
        "completed",
    ),
    (
        {
            "event": "v2rx.completed",
            "data": {"transaction_id": ID, "status": "completed", "session_id": ID},
            "timestamp": "2026-05-04T03:02:01Z",
        },
        "v2",
        "completed",
    ),
    (
        {"event": "v2rx.completed", "data": {"session_id": ID}, "timestamp": "2026-05-04T03:02:01Z"},
        "v2",
        "completed",
    ),
    *(
        (
            {"event": f"session.{kind}", "timestamp": "2026-05-04T03:02:01Z", "session_id": ID},
            "protocol",
            kind,
        )
        for kind in ("completed", "partial", "failed", "expired", "started", "ended")
    ),
]


@pytest.mark.parametrize(("event", "shape", "kind"), PUBLISHED)
def test_every_published_shape_is_understood(event, shape, kind):
    found = parse_event(json.dumps(event).encode())
    assert found == VendorEvent(session_id=ID, kind=kind, shape=shape)
    assert found.is_known
    assert found.is_ending is (kind not in {"started", "ended"})


@pytest.mark.parametrize(
    "name", ["v2rx.started", "session.rejoiced", "other.completed", "x.v2rx.completed", ""]
)
def test_a_kind_that_nobody_published_is_not_taken_for_one_that_is_known(name):
    found = parse_event(json.dumps({"event": name, "session_id": ID}).encode())
    assert found is not None
    assert found.kind in {"started", "unrecognised"}
    assert found.is_known is (name == "v2rx.started")
    assert not found.is_ending


@pytest.mark.parametrize(
    "session_id", ["", "../../etc", "a b", "é", "a" * 65, "a\x00", 7, None, [ID], {"a": 1}]
)
def test_an_id_that_cannot_be_one_is_left_out(session_id):
    found = parse_event(json.dumps({"event": "session.completed", "session_id": session_id}).encode())
    assert found == VendorEvent(session_id="", kind="completed", shape="protocol")
    assert not found.is_known


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"completed", b"{'a': 1}", b'{"a": NaN}', b"[" * 60_000]
)
def test_what_is_not_json_is_none(body):
    assert parse_event(body) is None


@pytest.mark.parametrize("body", [b"[]", b"null", b'"session.completed"', b"7", b"{}", b'[{"event": "x"}]'])
def test_json_that_is_no_event_is_recorded_as_unknown(body):
    assert parse_event(body) == VendorEvent(session_id="", kind="unrecognised", shape="unknown")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body):
    found = parse_event(body)
    assert found is None or isinstance(found, VendorEvent)
    if found is None:
        with pytest.raises((ValueError, RecursionError)):
            json.loads(body.decode("utf-8"), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


names = st.text(max_size=5) | st.sampled_from(
    ["event", "event_type", "event_id", "payload", "data", "transaction_id", "session_id", "service"]
)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    leaves | st.text(max_size=10) | st.sampled_from([ID, "v2rx.completed", "session.failed", "completed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=12,
)


@given(st.dictionaries(names, values, max_size=8))
def test_any_json_object_is_read_as_something_safe(event):
    found = parse_event(json.dumps(event).encode())
    assert found is not None
    assert found.kind in KNOWN | {"unrecognised"}
    assert re.fullmatch(r"[A-Za-z0-9_-]{0,64}", found.session_id)
    assert found.shape in {"nested", "flat", "v2", "protocol", "unknown"}
