"""The circuit breakers of destinations: an open breaker holds the calls to its destination back."""

from service.domain.deliveries.circuit_breaker import DestinationCircuitBreakerRule, FailureCount
from service.domain.ids import DestinationId
from service.store.audit import insert_audit_entry
from service.store.database import Database
from service.store.lifecycle_metrics import DEAD
from service.store.queries import sql

_ACTOR = "worker"


class CircuitBreakerRows:
    """Counts failures, opens and closes breakers, and audits each change in its transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_failure(
        self,
        destination_id: DestinationId,
        rule: DestinationCircuitBreakerRule,
        retry_after_seconds: float,
        *,
        took_long: bool = False,
    ) -> FailureCount | None:
        """Count one more consecutive failure; None if the destination was removed."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                sql("circuit_breakers.count_failure"),
                destination_id,
                rule.failures,
                rule.seconds,
                rule.min_pause_seconds,
                rule.max_pause_seconds,
                retry_after_seconds,
                took_long,
            )
            if row is None:
                return None
            has_just_opened = bool(row["is_open"] and row["was_closed"])
            if has_just_opened:
                facts = {"failures": row["failures"]}
                await insert_audit_entry(
                    connection, row["tenant_id"], _ACTOR, "destination.failing", destination_id, facts
                )
        return FailureCount(
            failures=row["failures"],
            failing_seconds=row["failing_seconds"],
            is_open=row["is_open"],
            has_just_opened=has_just_opened,
        )

    async def count_contact(self, destination_id: DestinationId) -> bool:
        """Reset a destination's failures and release its deliveries; true if its breaker was open."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(sql("circuit_breakers.close"), destination_id)
            if row is None or not row["was_open"]:
                return False
            await connection.execute(sql("circuit_breakers.release"), destination_id)
            await insert_audit_entry(
                connection, row["tenant_id"], _ACTOR, "destination.answers_again", destination_id, {}
            )
        return True

    async def give_up(self, destination_id: DestinationId, seconds: float, error_class: str) -> int:
        """End waiting deliveries that are older than `seconds`; return their number."""
        rows = await self._database.fetch(
            sql("circuit_breakers.give_up"), destination_id, seconds, error_class
        )
        DEAD.labels("schedule_used_up").inc(len(rows))
        return len(rows)
