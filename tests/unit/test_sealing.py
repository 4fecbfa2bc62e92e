from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.models import SessionDetails
from service.store.encryption import Keyring, SealError

NEW, OLD, OTHER = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
PLACE = "session.details:ses_1"

plains = st.binary(max_size=300)
places = st.text(max_size=40)


@given(plain=plains, place=places)
def test_what_was_sealed_opens_at_its_place(plain, place):
    ring = Keyring([NEW])
    assert ring.open(ring.seal(plain, place), place) == plain


@given(plain=st.binary(min_size=8, max_size=100))
def test_a_sealed_value_shows_nothing_and_never_looks_the_same_twice(plain):
    ring = Keyring([NEW])
    one, other = ring.seal(plain, PLACE), ring.seal(plain, PLACE)
    assert plain not in one
    assert one != other


@given(plain=plains, data=st.data())
def test_one_changed_bit_anywhere_does_not_open(plain, data):
    ring = Keyring([NEW, OLD])
    sealed = bytearray(ring.seal(plain, PLACE))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealError):
        ring.open(bytes(sealed), PLACE)


@given(plain=plains, data=st.data())
def test_a_value_that_was_cut_off_or_grew_does_not_open(plain, data):
    ring = Keyring([NEW])
    sealed = ring.seal(plain, PLACE)
    cut = data.draw(st.integers(0, len(sealed) - 1))
    for changed in (sealed[:cut], sealed + b"\0"):
        with pytest.raises(SealError):
            ring.open(changed, PLACE)


def test_the_shortest_remains_of_a_value_do_not_open():
    ring = Keyring([NEW])
    sealed = ring.seal(b"", PLACE)
    for length in range(len(sealed)):
        with pytest.raises(SealError):
            ring.open(sealed[:length], PLACE)


@given(place=places, elsewhere=places)
def test_a_value_that_was_moved_does_not_open(place, elsewhere):
    ring = Keyring([NEW])
    sealed = ring.seal(b"Asha Rao", place)
    if place == elsewhere:
        assert ring.open(sealed, elsewhere) == b"Asha Rao"
        return
    with pytest.raises(SealError) as failure:
        ring.open(sealed, elsewhere)
    assert "Asha" not in str(failure.value)


def test_the_first_key_seals_and_all_of_them_open():
    old, rotated, done = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    before, after = old.seal(b"before", PLACE), rotated.seal(b"after", PLACE)
    assert rotated.open(before, PLACE) == b"before"
    assert rotated.open(after, PLACE) == b"after"
    assert done.open(after, PLACE) == b"after"
    for ring, sealed in ((old, after), (done, before), (Keyring([OTHER]), before)):
        with pytest.raises(SealError, match="ENCRYPTION_KEYS"):
            ring.open(sealed, PLACE)


def test_without_a_key_nothing_starts():
    with pytest.raises(SealError):
        Keyring([])


def test_values_are_sealed_as_json_and_come_back_as_their_type():
    ring = Keyring([NEW])
    details = SessionDetails(patient={"id": "PAT-1", "name": "आशा"}, reference="E", metadata={"a": [1]})
    assert ring.open_json(ring.seal_json(details, PLACE), PLACE, SessionDetails) == details
