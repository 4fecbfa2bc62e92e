"""Sessions as the store knows them."""

from typing import Any

from service.domain.ids import KeyId
from tests.support.makers import LETTER, NOTE, make_document, make_result
from tests.support.store_house import House

ACTOR = KeyId("key_1")


async def erase(house: House, session_id: Any) -> str:
    async with house.stores.session_updates.locked(house.tenant_id, session_id, to_erase=True) as unit:
        assert unit is not None
        return await unit.erase(ACTOR)


async def partial(house: House, **letter: Any) -> Any:
    session_id = await house.end(NOTE, LETTER)
    failed = make_document(LETTER, **({"status": "failed", "data": None} | letter))
    for job in await house.claim_fetches(session_id):
        document = failed if job.template_id == LETTER else make_document(NOTE)
        await house.fetch(job, make_result("partial", document, transcript="words"))
    (job,) = await house.claim_fetches(session_id)
    assert job.template_id == ""
    await house.fetch(job, make_result("partial", make_document(NOTE), failed, transcript="words"))
    await house.let_pass("fetches", "called_at", 60)
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == "partial"
    return session_id
