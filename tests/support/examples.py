"""What several fuzzing tests draw from, and how much of it."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
# Any JSON, not large: what breaks a reader is its form.
json_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)

IS_LONG = settings.default is not None and settings.default.max_examples > 1000


def share(part: int) -> Any:
    """One part of so many of the profile's examples, for tests each of which costs a round trip or more."""
    assert settings.default is not None
    return settings(max_examples=max(10, settings.default.max_examples // part))
