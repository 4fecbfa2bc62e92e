"""The limits of one class of requests: one tenant leaves places to others, also under load."""

import pytest

from service.api.middleware.load_monitor import MIN_CAPACITY_FACTOR, LoadMonitor
from service.api.middleware.request_class import RequestClass
from service.domain.errors import Overloaded


def reads(load_monitor: LoadMonitor) -> RequestClass:
    # A name of its own: the gauge of a class is the process's.
    return RequestClass("reads of a test", 256, max_per_holder=192, load_monitor=load_monitor)


def fill(requests: RequestClass, holder: str) -> int:
    """Acquire for a holder until it is refused; return how many it got."""
    for number in range(1000):
        try:
            requests.acquire(holder)
        except Overloaded:
            return number
    raise AssertionError("nothing was refused")


def test_under_load_one_tenant_has_three_quarters_of_the_places_that_are_left() -> None:
    load_monitor = LoadMonitor()
    load_monitor.capacity_factor = MIN_CAPACITY_FACTOR
    requests = reads(load_monitor)
    assert fill(requests, "mallory") == 48
    requests.check()
    assert fill(requests, "hospital") == 16
    with pytest.raises(Overloaded):
        requests.check()


def test_what_one_tenant_had_before_the_load_takes_no_place_of_the_others() -> None:
    load_monitor = LoadMonitor()
    requests = reads(load_monitor)
    assert fill(requests, "mallory") == 192
    load_monitor.capacity_factor = MIN_CAPACITY_FACTOR
    requests.check()
    assert fill(requests, "mallory") == 0
    assert fill(requests, "hospital") == 16
    for _ in range(192):
        requests.release("mallory")
    assert fill(requests, "mallory") == 48


def test_all_requests_together_never_exceed_the_class() -> None:
    requests = reads(LoadMonitor())
    assert [fill(requests, name) for name in ("mallory", "trudy", "hospital")] == [192, 64, 0]


def test_a_class_without_shares_keeps_its_whole_limit() -> None:
    requests = RequestClass("webhooks of a test", 8, max_per_holder=8)
    assert fill(requests, "vendor") == 8
