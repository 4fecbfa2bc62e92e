"""The doors' shared bridge, and how long hypothesis looks: briefly and the same each time, or `make fuzz`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.api.conftest import house, shared_bridge

__all__ = ["house", "shared_bridge"]

# Examples of one test share a bridge, which HealthCheck.function_scoped_fixture warns of; a busy machine is
# slow, which is no failure.
_COMMON = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("short", _COMMON, derandomize=True, max_examples=100)
settings.register_profile("long", _COMMON, max_examples=5000)
settings.load_profile("short")
