"""A body that drips is told from one that is slow."""

from __future__ import annotations

import pytest

from service.api.upload_buffer import is_too_slow


@pytest.mark.parametrize(
    ("size", "seconds", "is_given_up"),
    [
        (1, 19.9, False),  # a network that stumbles
        (20, 20.1, True),
        (2048 * 21, 21.0, False),  # live audio of 16 kbit/s
        (1024 * 299, 299.0, False),
        (1024 * 298, 299.0, True),
    ],
)
def test_by_the_rate_since_it_began(size: int, seconds: float, *, is_given_up: bool) -> None:
    assert is_too_slow(size, seconds) == is_given_up
