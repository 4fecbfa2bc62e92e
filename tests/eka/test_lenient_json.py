"""What a large answer with one odd byte costs: the lenient reader must not take a hundred times its size."""

import tracemalloc
from contextlib import suppress
from time import process_time

import pytest

from service.eka.lenient_json import MAX_VALUES, decode_object

SIZE = 4 * 1024 * 1024


def peak_of(body: bytes) -> int:
    tracemalloc.start()
    try:
        decode_object(body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_text_beside_an_odd_value_takes_a_few_times_its_size() -> None:
    """Finding the text's end by backtracking took 95 bytes for each of its characters."""
    body = b'{"score": NaN, "transcript": "' + b"a" * SIZE + b'"}'
    assert peak_of(body) < 12 * SIZE


@pytest.mark.parametrize(
    "odd",
    [
        b"\xff" * 2 * SIZE,
        b'{"text": "' + b"\xff" * 2 * SIZE + b'"}',
        b'{"text": "' + b"a\xff" * SIZE + b'"}',
        b'{"score": NaN, "text": ' + b"[" * 200 + b'""' * SIZE,
        b'{"score": NaN, "text": "' + b"[" * 200 + b"a" * 2 * SIZE,
    ],
    ids=["bytes", "text", "alternating", "strings", "unended"],
)
def test_odd_bytes_are_read_in_a_fraction_of_a_second(odd: bytes) -> None:
    """Each byte that is no UTF-8 called a handler: 8 MiB of them held the event loop for two seconds."""
    began = process_time()
    with suppress(ValueError, RecursionError):
        decode_object(odd)
    assert process_time() - began < 0.4  # 0.15 on a machine that does nothing else


def test_what_is_utf_8_beside_odd_bytes_is_read_as_what_it_is() -> None:
    every = bytes(range(0x80, 0x100))
    body = b'{"text": "' + "ज्वर 😀".encode() + every + "é".encode() + b'\xe0\xa4", "half": "\\ud83d"}'
    assert decode_object(body.replace(b'\\"', b'"')) == (
        {"text": "ज्वर 😀" + every.decode("latin-1") + "é\xe0\xa4", "half": "\ufffd"},
        False,
    )


def test_escaped_quotes_and_unended_texts_are_read_once() -> None:
    text = '\\"' * 200_000
    assert decode_object(b'{"score": NaN, "text": "' + text.encode() + b'"}') == (
        {"score": "NaN", "text": '"' * 200_000},
        False,
    )
    with pytest.raises(ValueError, match="Unterminated"):
        decode_object(b'{"score": NaN, "text": "' + text.encode() + b"\\")


@pytest.mark.parametrize("odd", [b"1", b"NaN"])
@pytest.mark.parametrize("value", [b"{}", b"[]", b'""', b'{"ab":1}'])
def test_more_values_than_any_session_has_are_refused(odd: bytes, value: bytes) -> None:
    """Decoded, each takes up to 150 bytes: 8 MiB of them would be 200 MB, and the lenient reader's 10 s."""
    body = b'{"score": ' + odd + b', "data": [' + b",".join([value] * MAX_VALUES) + b"]}"
    with pytest.raises(ValueError, match="too many values"):
        decode_object(body)
