"""When calls are held back: a state machine without a clock, and what is true of it whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import structs

from service.domain.ids import TenantId
from service.eka.circuit_breaker import VendorCircuitBreaker, VendorCircuitBreakerRule

RULE = VendorCircuitBreakerRule(
    failures=4, sessions=3, limited_answers=2, within_seconds=60, min_pause_seconds=1, max_pause_seconds=30
)


def fail(circuit: VendorCircuitBreaker, at: float, *sessions: str, asked: float | None = None) -> None:
    for session in sessions:
        circuit.record_failure(at, at, session, asked)


def down(at: float = 100.0) -> VendorCircuitBreaker:
    circuit = VendorCircuitBreaker(RULE)
    fail(circuit, at, "a", "b", "c", "d")
    assert circuit.is_down
    return circuit


def test_failures_in_a_row_of_several_sessions_open_it():
    circuit = VendorCircuitBreaker(RULE)
    fail(circuit, 1.0, "a", "b", "c")
    assert circuit.wait_seconds(1.0) == 0
    fail(circuit, 1.0, "a")
    assert circuit.wait_seconds(1.0) == 1.0


def test_it_is_open_from_the_failures_to_the_first_answer_and_while_a_limit_lasts():
    circuit = VendorCircuitBreaker(RULE)
    assert not circuit.is_open(100.0)
    fail(circuit, 100.0, "a", "b", "c", "d")
    assert circuit.is_open(100.0)
    assert (circuit.wait_seconds(101.0), circuit.is_open(101.0)) == (0, True)  # one call may probe
    circuit.record_answer(102.0)
    assert not circuit.is_open(102.0)
    for session in "ab":
        circuit.record_limit(103.0, 103.0, session, 9.0)
    assert (circuit.is_open(104.0), circuit.is_open(112.0)) == (True, False)


def test_one_session_that_fails_every_time_opens_nothing():
    circuit = VendorCircuitBreaker(RULE)
    fail(circuit, 1.0, *(["poison"] * 500), "other")
    assert not circuit.is_down
    fail(circuit, 1.0, "third")
    assert circuit.is_down


def test_one_answer_ends_the_row():
    circuit = VendorCircuitBreaker(RULE)
    fail(circuit, 1.0, "a", "b", "c")
    circuit.record_answer(1.5)
    fail(circuit, 2.0, "a", "b", "c")
    assert not circuit.is_down


def test_failures_that_lie_far_apart_open_nothing():
    circuit = VendorCircuitBreaker(RULE)
    for at in range(0, 1000, 25):
        fail(circuit, float(at), f"session-{at}")
    assert not circuit.is_down


def test_a_call_that_began_before_the_last_answer_says_nothing_of_now():
    circuit = VendorCircuitBreaker(RULE)
    circuit.record_answer(30.0)
    for session in "abcdef":
        circuit.record_failure(31.0, 5.0, session, None)
    assert not circuit.is_down


def test_probes_go_through_one_a_pause_and_the_pause_doubles_up_to_its_bound():
    circuit, at, pauses = down(100.0), 100.0, []
    for _ in range(8):
        pause = circuit.wait_seconds(at)
        pauses.append(pause)
        assert circuit.wait_seconds(at + pause - 0.1) > 0
        at += pause
        assert circuit.wait_seconds(at) == 0
        circuit.record_start(at)
        assert circuit.wait_seconds(at) > 0  # the next one waits, however long the probe takes
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_the_first_answer_closes_it_for_all_and_the_next_time_begins_anew():
    circuit = down(100.0)
    for at in (101.0, 103.0, 107.0):
        circuit.record_start(at)
        circuit.record_failure(at, at, "a", None)
    circuit.record_answer(107.5)
    assert (circuit.is_down, circuit.wait_seconds(107.5)) == (False, 0)
    fail(circuit, 108.0, "a", "b", "c", "d")
    assert circuit.wait_seconds(108.0) == 1.0


@pytest.mark.parametrize(("asked", "wait"), [(7.0, 7.0), (0.0, 1.0), (3600.0, 60.0)])
def test_a_vendor_that_is_down_and_asks_for_time_gets_it_within_bounds(asked, wait):
    circuit = VendorCircuitBreaker(RULE)
    fail(circuit, 1.0, "a", "b", "c", "d", asked=asked)
    assert circuit.wait_seconds(1.0) == wait
    circuit = down(1.0)
    circuit.record_start(2.0)
    circuit.record_failure(2.0, 2.0, "a", asked)
    assert circuit.wait_seconds(2.0) == max(wait, 2.0)


@pytest.mark.parametrize(("asked", "wait"), [(7.0, 7.0), (0.0, 0.0), (3600.0, 60.0)])
def test_a_limit_holds_all_calls_for_as_long_as_it_says_within_bounds(asked, wait):
    circuit = VendorCircuitBreaker(RULE)
    for session in "ab":
        circuit.record_limit(1.0, 1.0, session, asked)
    assert (circuit.is_down, circuit.wait_seconds(1.0)) == (False, wait)
    assert circuit.wait_seconds(1.0 + wait) == 0


def test_a_limit_binds_the_call_that_it_was_told_until_several_sessions_are_told_in_a_row():
    circuit = VendorCircuitBreaker(RULE)
    for _ in range(5):
        circuit.record_limit(1.0, 1.0, "a", 30.0)
    circuit.record_answer(2.0)
    circuit.record_limit(3.0, 3.0, "b", 30.0)
    assert circuit.wait_seconds(3.0) == 0
    circuit.record_limit(3.0, 3.0, "c", 30.0)
    assert circuit.wait_seconds(3.0) == 30.0


def test_a_shorter_wait_does_not_shorten_a_longer_one_and_an_answer_does_not_end_it():
    circuit = VendorCircuitBreaker(RULE)
    for session in "ab":
        circuit.record_limit(1.0, 1.0, session, 30.0)
    circuit.record_limit(2.0, 1.0, "b", 5.0)
    circuit.record_answer(3.0)
    assert circuit.wait_seconds(3.0) == 28.0


def test_limits_that_do_not_say_for_how_long_are_failures():
    circuit = VendorCircuitBreaker(RULE)
    for session in "abcd":
        circuit.record_limit(1.0, 1.0, session, None)
    assert circuit.is_down


def test_whoever_waited_for_as_long_as_he_was_told_is_let_in_though_his_timer_rang_early():
    circuit = down(100.0)
    assert circuit.wait_seconds(100.99) == 0


class AnyTraffic(RuleBasedStateMachine):
    """Calls begin, are answered, fail or are limited in any order, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.circuit = VendorCircuitBreaker(RULE)
        self.under_way: list[tuple[float, str]] = []
        self.answers_at = float("-inf")
        self.failed_since: list[str] = []
        self.asked_until = float("-inf")
        self.probes: list[float] = []

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(session=st.sampled_from("abcde"))
    def begin(self, session: str) -> None:
        if self.circuit.wait_seconds(self.now):
            return
        if self.circuit.is_down:
            self.probes.append(self.now)
        self.circuit.record_start(self.now)
        self.under_way.append((self.now, session))

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if self.under_way:
            self._end(data)
            self.circuit.record_answer(self.now)
            self._was_answered()

    @rule(data=st.data(), asked=st.none() | st.floats(0, 100))
    def failure(self, data: st.DataObject, asked: float | None) -> None:
        if self.under_way:
            began, session = self._end(data)
            self.circuit.record_failure(self.now, began, session, asked)
            self.failed_since.append(session)
            self.asked_until = max(self.asked_until, self.now + min(asked or 0.0, 60))

    @rule(data=st.data(), asked=st.floats(0, 100))
    def limit(self, data: st.DataObject, asked: float) -> None:
        if self.under_way:
            began, session = self._end(data)
            self.circuit.record_limit(self.now, began, session, asked)
            self.asked_until = max(self.asked_until, self.now + min(asked, 60))
            self._was_answered()

    def _end(self, data: st.DataObject) -> tuple[float, str]:
        return self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))

    def _was_answered(self) -> None:
        self.failed_since.clear()
        self.probes.clear()
        assert not self.circuit.is_down

    @invariant()
    def it_is_down_only_after_enough_failures_of_enough_sessions(self) -> None:
        if self.circuit.is_down:
            assert len(self.failed_since) >= RULE.failures
            assert len(set(self.failed_since)) >= RULE.sessions

    @invariant()
    def it_never_stays_closed_for_long_nor_for_nothing(self) -> None:
        wait = self.circuit.wait_seconds(self.now)
        assert 0 <= wait <= 60
        if wait and not self.circuit.is_down:
            assert self.now + wait <= self.asked_until + 0.001

    @invariant()
    def probes_keep_their_distance(self) -> None:
        gaps = [later - before for before, later in zip(self.probes, self.probes[1:], strict=False)]
        assert all(gap >= min(2 * 2**number, 30) - 0.03 for number, gap in enumerate(gaps))


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def fail_of(breaker: VendorCircuitBreaker, at: float, tenant: TenantId, *sessions: str) -> None:
    for session in sessions:
        breaker.record_start(at, tenant)
        breaker.record_failure(at, at, session, None, tenant)


def call_always(breaker: VendorCircuitBreaker, seconds: int, *tenants: TenantId) -> Iterator[float]:
    """Let every call of these tenants fail, from 0 on; each calls four times a second when it may.

    Yields the time after each round of calls.
    """
    for quarter in range(4 * seconds):
        at = quarter / 4
        for tenant in tenants:
            if breaker.wait_seconds(at, tenant) == 0:
                fail_of(breaker, at, tenant, f"{tenant}-{quarter % 8}")
        yield at


MALLORY, HOSPITAL, THIRD = TenantId("ten_mallory"), TenantId("ten_hospital"), TenantId("ten_third")
FOURTH = TenantId("ten_fourth")


def test_one_tenant_s_failures_hold_up_no_other_tenant_of_the_account():
    breaker = VendorCircuitBreaker(RULE)
    breaker.record_answer(0.5, HOSPITAL)
    fail_of(breaker, 1.0, MALLORY, "a", "b", "c", "d")
    assert breaker.wait_seconds(1.0, MALLORY) == 1.0
    assert breaker.wait_seconds(1.0, HOSPITAL) == 0
    breaker.record_start(1.0, HOSPITAL)
    assert breaker.wait_seconds(1.0, MALLORY) == 1.0  # another tenant's call is no probe
    breaker.record_answer(1.1, HOSPITAL)
    assert breaker.wait_seconds(1.1, MALLORY) == pytest.approx(0.9)  # nor does its answer end the failures
    breaker.record_answer(1.2, MALLORY)
    assert breaker.wait_seconds(1.2, MALLORY) == 0


def test_one_failure_of_another_tenant_gives_a_failing_tenant_none_of_its_probes():
    breaker, held_back, at = VendorCircuitBreaker(RULE), 0, 1.0
    breaker.record_answer(0.0, HOSPITAL)
    fail_of(breaker, at, MALLORY, "a", "b", "c", "d")
    fail_of(breaker, 65.0, HOSPITAL, "flake")
    for quarter in range(4 * 66, 4 * 600):
        at = quarter / 4
        if breaker.wait_seconds(at, MALLORY) == 0:
            fail_of(breaker, at, MALLORY, f"m{quarter % 8}")
        if quarter % 20 == 0:
            held_back += breaker.wait_seconds(at, HOSPITAL) > 0
            breaker.record_start(at, HOSPITAL)
            breaker.record_answer(at + 0.01, HOSPITAL)
    assert held_back == 0


@pytest.mark.parametrize("failing", [(MALLORY, THIRD), (MALLORY, THIRD, FOURTH)])
def test_tenants_that_fail_hold_up_no_tenant_that_was_answered_within_the_window(failing):
    breaker = VendorCircuitBreaker(RULE)
    breaker.record_answer(0.0, HOSPITAL)
    for at in call_always(breaker, 59, *failing):
        assert breaker.wait_seconds(at, HOSPITAL) == 0
    for tenant in failing:
        assert breaker.wait_seconds(59.0, tenant) > 0


def test_the_account_is_open_as_a_whole_when_all_or_three_tenants_fail_and_none_is_answered():
    mixed = VendorCircuitBreaker(RULE)
    fail_of(mixed, 1.0, MALLORY, "a", "b", "c")
    fail_of(mixed, 1.0, HOSPITAL, "e")
    assert mixed.wait_seconds(1.0, THIRD) == 1.0
    breaker = VendorCircuitBreaker(RULE)
    breaker.record_start(0.0, FOURTH)  # it called lately, and its call has not failed
    fail_of(breaker, 1.0, MALLORY, "a", "b", "c")
    fail_of(breaker, 1.0, HOSPITAL, "e")
    assert breaker.wait_seconds(1.0, FOURTH) == 0
    fail_of(breaker, 1.0, THIRD, "f")
    assert breaker.wait_seconds(1.0, FOURTH) == 1.0


def test_in_an_account_that_is_open_each_tenant_has_probes_of_its_own_and_any_answer_closes_it():
    breaker = VendorCircuitBreaker(RULE)
    list(call_always(breaker, 20, MALLORY, THIRD, FOURTH))
    assert breaker.wait_seconds(20.0, HOSPITAL) == 0
    breaker.record_start(20.0, HOSPITAL)
    assert breaker.wait_seconds(20.0, HOSPITAL) == 2.0  # its next probe
    breaker.record_answer(20.5, HOSPITAL)
    assert [breaker.wait_seconds(20.5, each) for each in (HOSPITAL, MALLORY, THIRD, FOURTH)] == [0] * 4
    assert not breaker.is_open(20.5)


def test_a_vendor_that_is_down_gets_one_call_a_pause_of_each_further_tenant():
    breaker = VendorCircuitBreaker(RULE)
    list(call_always(breaker, 2, MALLORY, THIRD, FOURTH))
    probes = []
    for at in range(2, 64):
        if breaker.wait_seconds(at, HOSPITAL) == 0:
            probes.append(at)
            fail_of(breaker, at, HOSPITAL, f"h{at}")
    assert probes == [2, 4, 8, 16, 32, 62]


def test_a_limit_of_one_tenant_s_sessions_binds_no_other_tenant():
    breaker = VendorCircuitBreaker(RULE)
    for session in "ab":
        breaker.record_limit(1.0, 1.0, session, 30.0, MALLORY)
    assert (breaker.wait_seconds(1.0, MALLORY), breaker.wait_seconds(1.0, HOSPITAL)) == (30.0, 0)
    breaker.record_limit(1.0, 1.0, "c", 30.0, HOSPITAL)
    breaker.record_answer(1.5, THIRD)
    assert breaker.wait_seconds(2.0, HOSPITAL) == 0
    breaker.record_limit(2.0, 2.0, "d", 30.0, HOSPITAL)
    assert breaker.wait_seconds(2.0, HOSPITAL) == 30.0  # its second in a row


def test_the_breaker_remembers_so_many_tenants_and_forgets_the_one_that_called_least_lately():
    breaker = VendorCircuitBreaker(structs.replace(RULE, max_tenants=2))
    breaker.record_answer(0.0, MALLORY)
    breaker.record_answer(0.0, HOSPITAL)
    fail_of(breaker, 1.0, MALLORY, "a", "b", "c", "d")
    breaker.record_answer(1.0, THIRD)
    assert breaker.wait_seconds(1.0, MALLORY) > 0
    breaker.record_answer(1.0, FOURTH)
    assert (breaker.wait_seconds(1.0, MALLORY), breaker.is_open(1.0)) == (0, False)
