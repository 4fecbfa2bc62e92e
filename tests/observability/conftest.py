"""The store's fixtures: metrics and traces are looked at over the same rows."""

from __future__ import annotations

from tests.store.conftest import connection, house

__all__ = ["connection", "house"]
