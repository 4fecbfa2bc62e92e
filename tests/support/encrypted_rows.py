"""Rows with a value in each encrypted column."""

from schemas.results import WarningInfo
from service.domain.api_keys.changes import ApiKeys
from service.domain.idempotency import KeyedCall
from service.domain.ids import DEFAULT_ACCOUNT
from service.domain.results.models import DocumentAnnotations
from service.domain.sessions.models import SessionDetails
from service.settings import Settings
from tests.support.bridge import make_settings
from tests.support.makers import NOTE, make_answer, make_document, make_lease, make_result
from tests.support.store_house import House

OLD, NEW, OTHER = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))


NAME, PATIENT, REFERENCE = "Zanzibara Quillfeather", "PAT-Zx81Qq", "ENC-Vv77Ww"


TRANSCRIPT, DOCUMENT, METADATA = "chest-pain-Kk42 since Tuesday", "bronchitis-Jj19", "ward-Hh23"


WARNING = "could-not-hear-Ww31"


URL_TOKEN, KEY, TOKENS = "urltoken-Pp55", "idempotency-Gg66", "vendortoken-Dd77"


DETAILS = SessionDetails(
    patient={"id": PATIENT, "name": NAME}, reference=REFERENCE, metadata={"ward": METADATA}
)


def settings_with(url: str, *keys: bytes) -> Settings:
    return make_settings(url, "redis://unused", encryption_keys=keys)


def keyed(house: House) -> KeyedCall:
    return KeyedCall(tenant_id=house.tenant_id, route="createSession", key=KEY, request=PATIENT.encode())


# One row for a session in tables that hold nothing encrypted.
_UNENCRYPTED = (
    """INSERT INTO recordings (session_id, tenant_id, bytes)
       SELECT id, tenant_id, 1 FROM sessions WHERE id = $1""",
    """INSERT INTO recording_uploads (session_id, tenant_id)
       SELECT id, tenant_id FROM sessions WHERE id = $1""",
    """INSERT INTO stream_interruptions
           (lease, number, session_id, began_at, cause, held_frames, replayed_bytes)
       SELECT lease, 1, session_id, now(), 'vendor_lost', 0, 0 FROM stream_connections
       WHERE session_id = $1""",
)


async def fill(house: House) -> dict[str, str]:
    """One row at least in every table, from code that holds recognisable secrets."""
    stores = house.stores
    destination = await house.add_destination(f"https://emr.example/hooks?token={URL_TOKEN}")
    key = await ApiKeys(stores.api_keys).add(house.tenant_id, "admin")
    lease, plan = make_lease(), house.plan(details=DETAILS)
    call = keyed(house)
    await stores.idempotency.reserve_session(call, plan, lease, lease_seconds=60, life_seconds=3600)
    await stores.idempotency.finish(call, plan.id, NAME.encode())
    session_id = await house.end(NOTE, details=DETAILS)
    (job,) = await house.claim_fetches()
    warning = WarningInfo(code="vendor_warning", message=WARNING)
    document = make_document(
        NOTE, data={"assessment": DOCUMENT}, annotations=DocumentAnnotations(warnings=[warning])
    )
    result = make_result("completed", document, transcript=TRANSCRIPT, warnings=[warning])
    await house.fetch(job, result)
    await house.hear(session_id)
    (delivery,) = await house.claim_deliveries()
    await house.record(delivery, make_answer(200, NAME.encode()))
    open_ = await house.create(details=DETAILS)
    await house.store_chunk(open_, 0, NAME.encode())
    await house.hold_chunk(await house.create(details=DETAILS), 0, NAME.encode())
    await house.connection.execute("INSERT INTO audio_object_deletions (name) VALUES ('folder/ses/object')")
    streamed, stream_lease = await house.create(upload="stream", details=DETAILS), make_lease()
    assert await stores.streams.claim(streamed, stream_lease, 60)
    for statement in _UNENCRYPTED:
        await house.connection.execute(statement, streamed)
    token_lease = make_lease()
    await stores.vendor_tokens.lease(DEFAULT_ACCOUNT, token_lease, seconds=30, generation=0)
    await stores.vendor_tokens.store(DEFAULT_ACCOUNT, token_lease, TOKENS.encode())
    await stores.leases.acquire("sweep", make_lease(), 15)
    await stores.encryption_keys.begin()
    await stores.reencryption.step()
    await house.connection.execute(
        "UPDATE sessions SET ended_at = now() - interval '3 days' WHERE ended_at IS NOT NULL"
    )
    await house.connection.execute("UPDATE sessions SET settled_at = NULL WHERE ended_at IS NOT NULL")
    assert await stores.ledger.fold()
    return {
        "session": session_id,
        "open": open_,
        "key": str(key.key),
        "secret": str(destination.secret),
        "destination": destination.id,
        "capability": await stores.streams.capability(streamed),
    }
