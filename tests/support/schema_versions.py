"""Further versions of a document, as EkaScribe makes them."""

from __future__ import annotations

from secrets import token_hex
from typing import Any

from service.domain.deliveries.models import DeliveryJob
from service.domain.ids import SessionId, TemplateId
from service.domain.results.events import release
from tests.support.makers import NOTE, TurnedClock, make_document
from tests.support.store_house import House


async def add_version(house: House, session_id: SessionId, template_id: TemplateId = NOTE) -> None:
    """Another version of a document, and its event."""
    document = make_document(template_id, data={"note": token_hex(4)})
    async with house.stores.results.settling(session_id) as unit:
        assert unit is not None
        await unit.add_document(document, None, listed=frozenset({document.upstream_id}))
        assert await release(unit, TurnedClock())


async def versions_of(house: House, jobs: list[DeliveryJob]) -> list[tuple[str, int]]:
    """Which versions of which templates these jobs are."""
    rows = await house.connection.fetch(
        "SELECT o.template_id, d.version FROM deliveries d JOIN documents o ON o.id = d.document_id "
        "WHERE d.id = ANY($1) ORDER BY 1, 2",
        [job.id for job in jobs],
    )
    return [(row["template_id"], row["version"]) for row in rows]


async def of_versions(
    house: House, jobs: list[DeliveryJob], template_id: TemplateId
) -> dict[int, DeliveryJob]:
    """The jobs of one template by their version."""
    found: dict[Any, DeliveryJob] = {}
    for job in jobs:
        version = await house.value(
            "SELECT d.version FROM deliveries d JOIN documents o ON o.id = d.document_id "
            "WHERE d.id = $1 AND o.template_id = $2",
            job.id,
            template_id,
        )
        if version is not None:
            found[version] = job
    return found
