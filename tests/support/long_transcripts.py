"""Transcripts that are long enough to count as large responses."""

from service.bootstrap.container import open_stores
from service.store.sessions import transcript_aad
from tests.support.bridge import Bridge


async def lengthen(house: Bridge, session_id: str, size: int) -> str:
    """Give a session a transcript of so many bytes, and return it."""
    transcript = f"{session_id} ".ljust(size, "य")[:size]
    transcript = transcript.encode()[:size].decode(errors="ignore")
    async with open_stores(house.settings) as stores:
        encrypted = stores.keyring.encrypt(transcript.encode(), transcript_aad(session_id))
    await house.database.execute(
        "UPDATE sessions SET transcript_sealed = $2 WHERE id = $1", session_id, encrypted
    )
    return transcript
