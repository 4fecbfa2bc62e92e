"""A cancel call is a debt: paid once, tried within a limit, and never an error of whoever cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.domain.errors import (
    EncryptionKeyMissing,
    VendorCallHeldBack,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
)
from service.domain.ids import DEFAULT_ACCOUNT
from service.domain.sessions.models import PendingCall
from service.domain.sessions.vendor_cancellation import VendorCanceller
from tests.support.fakes import MemorySessions, ScriptedVendor
from tests.support.lifecycles import make_pending_calls
from tests.support.makers import AT_VENDOR, SESSION, TENANT, TurnedClock, make_lease

AWAY = [
    VendorTimeout("no answer", sent=True),
    VendorUnavailable("refused", sent=False),
    VendorRefused("no", status=403, vendor_code=None),
]


def owed(attempts: int = 1) -> PendingCall:
    return PendingCall(
        session_id=SESSION,
        vendor_id=AT_VENDOR,
        tenant_id=TENANT,
        account=DEFAULT_ACCOUNT,
        call="cancel",
        lease=make_lease(),
        attempts=attempts,
        upload="chunked",
        chunks=0,
    )


async def tell(answer: Any, attempts: int = 1) -> MemorySessions:
    vendor, store = ScriptedVendor(), MemorySessions()
    vendor.cancels = [answer]
    await VendorCanceller(store=store, vendor=vendor, clock=TurnedClock()).cancel_at_vendor(owed(attempts))
    assert vendor.calls == ["cancel"]
    return store


@pytest.mark.parametrize("status", [400, 404, 409, 410])
async def test_a_vendor_with_nothing_to_cancel_is_told(status):
    assert (await tell(VendorRefused("no", status=status, vendor_code=None))).recorded == ["cancel_told"]
    assert (await tell(None)).recorded == ["cancel_told"]


@pytest.mark.parametrize("error", AWAY)
async def test_any_other_failure_is_tried_again_later_and_not_for_ever(error):
    store = await tell(error)
    assert store.recorded == ["postponed"]
    assert store.postponed_seconds[0] >= 4
    assert (await tell(error, 19)).recorded == ["postponed"]
    assert (await tell(error, 20)).recorded == ["cancel_told"]


async def test_a_gate_that_is_closed_is_no_try():
    for attempts in (1, 20, 99):
        store = await tell(VendorCallHeldBack("closed", retry_after_seconds=0.1), attempts)
        assert (store.recorded, store.postponed_seconds) == (["given_back"], [1.05])


async def test_whoever_goes_away_leaves_the_debt_to_the_sweep():
    class Hanging(ScriptedVendor):
        async def cancel_session(self, account: Any, session_id: Any) -> None:
            await asyncio.Event().wait()

    store = MemorySessions()
    task = asyncio.create_task(
        VendorCanceller(store=store, vendor=Hanging(), clock=TurnedClock()).cancel_at_vendor(owed())
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.recorded == ["postponed"]


async def test_the_sweep_pays_it():
    vendor, store = ScriptedVendor(), MemorySessions()
    await make_pending_calls(store, vendor, TurnedClock()).process(owed())
    assert (vendor.calls, store.recorded) == (["cancel"], ["cancel_told"])


async def test_a_worker_that_lacks_a_key_leaves_the_cancel_to_another_and_counts_no_try():
    vendor, store = ScriptedVendor(), MemorySessions()
    vendor.cancels = [EncryptionKeyMissing("no key", key_ids=["00000000"])]
    await make_pending_calls(store, vendor, TurnedClock()).process(owed(attempts=99))
    assert store.recorded == ["given_back"]
