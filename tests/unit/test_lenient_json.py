"""What a large answer with one odd byte costs: the lenient reader must not take a hundred times its size."""

import tracemalloc

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
