"""A clock that PostgreSQL and the vendor correct: the middle one of three, carried on by a steady one."""

from __future__ import annotations

from email.utils import format_datetime

import pytest

from service.domain.clock import CheckedClock
from service.eka.http_exchange import make_http_client
from service.sandbox.serving import serve_app
from service.sandbox.vendor.app import VendorSettings, create_vendor
from tests.support.makers import START


class Times:
    """The system's clock and the steady one, which a test sets."""

    def __init__(self) -> None:
        self.true = START.timestamp()
        self.off = 0.0
        self.steady = 1000.0
        self.clock = CheckedClock(system=lambda: self.true + self.off, steady=lambda: self.steady)

    def pass_by(self, seconds: float) -> None:
        self.true += seconds
        self.steady += seconds

    def database(self, off: float = 0.0) -> None:
        self.clock.observe_database_time(self.true + off, self.steady)

    def vendor(self, off: float = 0.0) -> None:
        at = START.fromtimestamp(self.true + off, START.tzinfo)
        self.clock.observe_vendor_date(format_datetime(at, usegmt=True))

    @property
    def error(self) -> float:
        """By how much the corrected time is wrong."""
        return self.clock.now().timestamp() - self.true


@pytest.mark.parametrize(
    ("own", "database", "vendor", "error"),
    [
        (600, None, None, 600),  # nobody was heard
        (600, 0, None, 0),
        (-600, 0, None, 0),
        (0, 3600, None, 3600),
        (600, 0, 0, 0),
        (0, 3600, 0, 0),  # the database's is the wrong one
        (0, 0, -86_400, 0),
        (600, 0, 3600, 600),  # three opinions: the middle one
    ],
)
def test_two_of_three_clocks_decide(own, database, vendor, error):
    times = Times()
    times.off = own
    if database is not None:
        times.database(database)
    if vendor is not None:
        times.vendor(vendor)
    assert times.error == pytest.approx(error, abs=1)
    assert times.clock.is_off is (abs(own - error) > 5)
    assert times.clock.offset_seconds == pytest.approx(own - error, abs=1)


def test_a_jump_of_the_system_s_clock_moves_nothing():
    times = Times()
    times.database()
    for off in (-600, 600, 3):
        times.pass_by(1)
        times.off = off
        assert times.error == pytest.approx(0, abs=0.01)
        assert times.clock.is_off is (abs(off) > 5)


def test_a_later_look_counts():
    times = Times()
    times.database(600)
    times.pass_by(10)
    times.database()
    assert times.error == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Jan 2026 00:00:00 GMT", "0", "-1"])
def test_a_date_that_says_nothing_is_passed_over(date):
    times = Times()
    times.off = 600
    times.database()
    times.clock.observe_vendor_date(date)
    assert times.error == pytest.approx(0, abs=0.01)


def test_the_vendor_s_date_is_read_every_few_seconds_and_no_more_often():
    times = Times()
    times.database(3600)
    times.vendor()
    times.vendor(7200)
    assert times.error == pytest.approx(0, abs=1)
    times.pass_by(6)
    times.vendor(7200)
    assert times.error == pytest.approx(3600, abs=1)


def test_without_any_witness_the_time_is_the_system_s_and_now():
    clock = CheckedClock()
    assert abs(clock.offset_seconds) < 0.1
    assert clock.is_off is False


async def test_the_vendor_s_client_tells_the_date_of_each_answer():
    heard: list[str | None] = []
    async with serve_app(create_vendor(VendorSettings())) as url, make_http_client(heard.append) as http:
        answer = await http.get(f"{url}/voice/v1/sessions/ses_of_nobody_00000000")
    assert heard == [answer.headers["date"]]
