"""For how long confirmed audio is kept."""

import pytest

from schemas.tenants import KeepAudio
from service.domain.audio.keeping import days_to_keep


@pytest.mark.parametrize(
    ("choice", "days"), [("on_trouble", None), ("until_result", 0), ("1", 1), ("365", 365)]
)
def test_each_choice_is_a_number_of_days_or_none(choice: KeepAudio, days: int | None) -> None:
    assert days_to_keep(choice) == days
