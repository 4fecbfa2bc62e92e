from __future__ import annotations

from hypothesis import HealthCheck, settings

# Two shared cores: an example that took long says nothing about the code.
settings.register_profile(
    "unit", deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unit")
