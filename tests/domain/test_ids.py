from __future__ import annotations

import re

import pytest

from service.domain import ids

MAKERS = {
    "ses_": ids.new_session_id,
    "ten_": ids.new_tenant_id,
    "key_": ids.new_key_id,
    "doc_": ids.new_document_id,
    "dst_": ids.new_destination_id,
    "msg_": ids.new_delivery_id,
}


@pytest.mark.parametrize(("prefix", "make"), MAKERS.items())
def test_an_id_is_its_prefix_and_letters_and_digits_that_nobody_can_guess(prefix, make):
    made = {make() for _ in range(500)}
    assert len(made) == 500
    for each in made:
        assert re.fullmatch(prefix + r"[a-z0-9]{20,}", each)
        # `ses_` and letters and digits, 16 to 32 characters (docs/vendor.md#id-length).
        assert 16 <= len(each) <= 32
    # Every place of the random part varies: nothing of it is a counter or a clock.
    places = list(zip(*(each.removeprefix(prefix) for each in made), strict=True))
    assert min(len(set(place)) for place in places) > 8
