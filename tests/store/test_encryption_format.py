from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.sessions.models import SessionDetails
from service.store.encryption import DecryptionError, Keyring

NEW, OLD, OTHER = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
PLACE = "session.details:ses_1"

plains = st.binary(max_size=300)
places = st.text(max_size=40)


@given(plain=plains, place=places)
def test_what_was_encrypted_is_decrypted_with_its_aad(plain, place):
    ring = Keyring([NEW])
    assert ring.decrypt(ring.encrypt(plain, place), place) == plain


@given(plain=st.binary(min_size=8, max_size=100))
def test_an_encrypted_value_shows_nothing_and_never_looks_the_same_twice(plain):
    ring = Keyring([NEW])
    one, other = ring.encrypt(plain, PLACE), ring.encrypt(plain, PLACE)
    assert plain not in one
    assert one != other


@given(plain=plains, data=st.data())
def test_one_changed_bit_anywhere_does_not_open(plain, data):
    ring = Keyring([NEW, OLD])
    encrypted = bytearray(ring.encrypt(plain, PLACE))
    bit = data.draw(st.integers(0, len(encrypted) * 8 - 1))
    encrypted[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecryptionError):
        ring.decrypt(bytes(encrypted), PLACE)


@given(plain=plains, data=st.data())
def test_a_value_that_was_cut_off_or_grew_does_not_open(plain, data):
    ring = Keyring([NEW])
    encrypted = ring.encrypt(plain, PLACE)
    cut = data.draw(st.integers(0, len(encrypted) - 1))
    for changed in (encrypted[:cut], encrypted + b"\0"):
        with pytest.raises(DecryptionError):
            ring.decrypt(changed, PLACE)


def test_the_shortest_remains_of_a_value_do_not_open():
    ring = Keyring([NEW])
    encrypted = ring.encrypt(b"", PLACE)
    for length in range(len(encrypted)):
        with pytest.raises(DecryptionError):
            ring.decrypt(encrypted[:length], PLACE)


@given(place=places, elsewhere=places)
def test_a_value_that_was_moved_does_not_open(place, elsewhere):
    ring = Keyring([NEW])
    encrypted = ring.encrypt(b"Asha Rao", place)
    if place == elsewhere:
        assert ring.decrypt(encrypted, elsewhere) == b"Asha Rao"
        return
    with pytest.raises(DecryptionError) as failure:
        ring.decrypt(encrypted, elsewhere)
    assert "Asha" not in str(failure.value)


def test_the_first_key_encrypts_and_all_of_them_decrypt():
    old, rotated, done = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    before, after = old.encrypt(b"before", PLACE), rotated.encrypt(b"after", PLACE)
    assert rotated.decrypt(before, PLACE) == b"before"
    assert rotated.decrypt(after, PLACE) == b"after"
    assert done.decrypt(after, PLACE) == b"after"
    for ring, encrypted in ((old, after), (done, before), (Keyring([OTHER]), before)):
        with pytest.raises(DecryptionError, match="ENCRYPTION_KEYS"):
            ring.decrypt(encrypted, PLACE)


def test_without_a_key_nothing_starts():
    with pytest.raises(DecryptionError):
        Keyring([])


def test_values_are_encrypted_as_json_and_come_back_as_their_type():
    ring = Keyring([NEW])
    details = SessionDetails(patient={"id": "PAT-1", "name": "आशा"}, reference="E", metadata={"a": [1]})
    assert ring.decrypt_json(ring.encrypt_json(details, PLACE), PLACE, SessionDetails) == details
