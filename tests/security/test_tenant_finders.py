"""By construction: what touches a tenant's rows is told the tenant, or says here why it need not be."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from service.domain.api_keys.models import Principal
from service.domain.ids import TenantId
from service.store.queries import queries

ROOT = Path(__file__).parents[2]
STORE = ROOT / "service" / "store"
TENANT_TABLES = re.compile(
    r"\b(api_keys|attempts|audio_blocks|audit|chunks|deliveries|destinations|documents|events|fetches"
    r"|idempotency_keys|recordings|recording_uploads|sessions|ledger_days|ledger_suspects|stream_connections"
    r"|stream_interruptions|streams|tenants|webhook_events)\b"
)
# The tenant's id as a parameter: in a filter, or among the values of the new row that a statement is about.
BY_TENANT = re.compile(
    r"\btenant_id\s*=\s*\$\d|\btenants\b[^;]*\bWHERE id = \$\d"
    r"|\A\s*INSERT INTO \w+ \([^)]*\btenant_id\b[^)]*\)\s+(VALUES \(|SELECT )\$\d"
)

_LOCKED = "in a transaction that has locked the session, or the delivery, by its tenant"
_LEASED = "fenced by a lease, which only who claimed the row has"
_WORKER = "the worker goes over all tenants"
_FOUND = "of rows that were found by their tenant before"
_CAPABILITY = "whoever shows a session's capability may stream to it, whatever his tenant"
_ACTOR = "in a transaction that was opened for an actor of the tenant"
_OPERATOR = "the operator's commands are about all tenants"

# Statement, or a whole file of them → why it names no tenant.
STATEMENTS = {
    "tenants.list": _OPERATOR,
    "tenants.insert": "it makes the tenant",
    "api_keys.principals_by_hash": "it finds out who asks",
    "api_keys.active": "of keys that were let in before: it finds out whether they still are",
    "api_keys.principal_by_id": "it finds out who asks; the token was signed by us",
    "circuit_breakers": "of a destination to which a delivery was leased, or that was found by its tenant",
    "session_updates.lease": _LOCKED,
    "session_updates.cancel": _LOCKED,
    "session_updates.release": _LEASED,
    "session_updates.record": _LEASED,
    "audio.claim": "told the tenant of each sequence, in an array; sessions are found by both",
    "audio.record": "of a chunk that was claimed by its tenant; the bytes' hash tells whose it is",
    "audio.release": _LEASED,
    "audio.expire_lease": _LEASED,
    "audio.sequences": _LOCKED,
    "stream_audio.earlier": _CAPABILITY,
    "stream_audio.part": _LEASED,
    "stream_audio.record_taken": _LEASED,
    "stream_audio.drop_part": _LEASED,
    "stream_audio.lock": _CAPABILITY,
    "stream_audio.record_held": _CAPABILITY,
    "stream_audio.drop_held": _CAPABILITY,
    "stream_audio.record_interruption": _CAPABILITY,
    "sessions.begin_stream_handover": _LEASED,
    "held_audio.lock_session": "of a session whose chunk was claimed by its tenant",
    "held_audio.hold": _LEASED,
    "held_audio.next_held": _LEASED,
    "audio_blocks.read": _LEASED,
    "held_audio.record_handed_over": _LEASED,
    "audio_blocks.delete_of_chunk": _LEASED,
    "audio_blocks.discard": _LOCKED,
    "held_audio.has_held": _LEASED,
    "recordings.uncut": _LEASED,
    "recordings.record_seconds": _LEASED,
    "recording_uploads.begin": _LEASED,
    "recording_uploads.append": _LEASED,
    "recording_uploads.release": _LEASED,
    "recording_uploads.record_audio": _LOCKED,
    "recording_uploads.delete_over": _WORKER,
    "recordings.delete_chunks": _LEASED,
    "recordings.delete_chunk_blocks": _LEASED,
    "recordings.record_cut": _LEASED,
    "held_audio.repair": _WORKER,
    "held_audio.figures": _WORKER,
    "audio_blocks.purge": _WORKER,
    "audio_objects.orphans": _WORKER,
    "idempotency.forget": _WORKER,
    "deliveries.claim": _WORKER,
    "deliveries.next_slot": _WORKER,
    "deliveries.record_attempts": _LEASED,
    "deliveries.may_leave": _LEASED,
    "deliveries.withdraw": _LEASED,
    "deliveries.release": _LEASED,
    "deliveries.lock_to_pause": _LEASED,
    "deliveries.pause_destination": _LEASED,
    "deliveries.pause_deliveries": _LEASED,
    "deliveries.attempts": _FOUND,
    "deliveries.resume": _FOUND,
    "destinations.rotate": "in a transaction that holds the destination by its tenant",
    "destinations.give_up_deliveries": "in a transaction that removed the destination by its tenant",
    "documents.latest": _LOCKED,
    "documents.replaced_version": _LOCKED,
    "documents.known": _LOCKED,
    "documents.unreleased": _LOCKED,
    "documents.mark_released": _LOCKED,
    "erasure": _LOCKED,
    "server_info.forbidden": "it asks for rights on tables, no rows",
    "results": "fenced by a lease, or in a transaction that has locked the session",
    "additional_documents": "by a lease, or in a transaction that has locked the session by its tenant",
    "encryption_keys": _OPERATOR,
    "queue_depths": "the installation's figures: how much is due, not whose",
    "ledger.next_day": _WORKER,
    "ledger.days_to_come": _WORKER,
    "ledger.oldest_count": _WORKER,
    "ledger.unfold": _WORKER,
    "ledger.fold": "a day of all tenants, each counted by itself",
    "deliveries.add_ping": "in a transaction that holds the destination by its tenant",
    "deliveries.has_too_many_pings": "in a transaction that holds the destination by its tenant",
    "deliveries.replay": _FOUND,
    "deliveries.recover_dead": "in a transaction that holds the destination by its tenant",
    "deliveries.confirm": _LOCKED,
    "deliveries.supersede": _LOCKED,
    "deliveries.obstacle": _LOCKED,
    "reencryption": _WORKER,
    "retention.due": _WORKER,
    "retention.hold": _WORKER,
    "retention.hold_deliveries": _WORKER,
    "retention.delete": _WORKER,
    "retention.purge_audio": _WORKER,
    "sessions.remake": "fenced by a lease, or in a transaction that has locked the session",
    "sessions.record_created": _LEASED,
    "sessions.hold_create": _LEASED,
    "sessions.plan": _LEASED,
    "sessions.renew_pending_call": _LEASED,
    "sessions.lock_pending_call": _LEASED,
    "sessions.finish_handover": _LEASED,
    "sessions.begin_held_end": _LOCKED,
    "sessions.record_never_created": _LEASED,
    "sessions.reschedule_pending_call": _LEASED,
    "sessions.release_pending_call": _LEASED,
    "sessions.record_end_told": _LEASED,
    "sessions.record_cancel_told": _LEASED,
    "sessions.cancel_now": "of a session whose lease the caller had; it only hurries a call that is owed",
    "sessions.is_cancelled": "of a session that the caller has a call to EkaScribe for",
    "sessions.begin_end": _LOCKED,
    "sessions.claim_pending_end": _LOCKED,
    "sessions.claim_pending_calls": _WORKER,
    "sessions.record_result": _LOCKED,
    "sessions.settle": _LOCKED,
    "sessions.show_partial": _LOCKED,
    "sessions.past": _WORKER,
    "sessions.warn_expiring": _WORKER,
    "sessions.standings": _FOUND,
    "sessions.marks": _FOUND,
    "sessions.document_summaries": _FOUND,
    "sessions.delivery_counts": _FOUND,
    "sessions.traceparent": "names a trace, nothing of the session",
    "vendor_accounts.own": "of the tenants themselves, by their ids",
    "sessions.timeline": _FOUND,
    "sessions.timeline_size": _FOUND,
    "sessions.tenant_of": _OPERATOR,
    "streams": _CAPABILITY,
    "medscribe.pending": _FOUND,
    "webhook_events.receive": "filtered by the account that signed, which is a tenant or the shared one",
    "webhook_events.receive_many": "filtered by the accounts that signed, each event by its own",
}

# Method, or a whole class of them → why it is not told the tenant.
METHODS = {
    "TenantRows.list_tenants": _OPERATOR,
    "AuditedUnitRows": _ACTOR,
    "TenantUnitRows": _ACTOR,
    "ApiKeyUnitRows": _ACTOR,
    "VendorAccountUnitRows": _ACTOR,
    "DestinationUnitRows": _ACTOR,
    "DeliveryUnitRows": _ACTOR,
    "IdempotencyKeys.load": "one secret for the installation",
    "ApiKeyRows.hash_of": "it hashes what was shown",
    "ApiKeyRows.principals": "it finds out who asks",
    "ApiKeyRows.active_keys": "of keys that were let in before: it finds out whether they still are",
    "CircuitBreakerRows": "of a destination to which a delivery was leased",
    "SessionUpdateRows.release_change": _LEASED,
    "SessionUpdateUnitRows": _LOCKED,
    "erasure.count_session_rows": _LOCKED,
    "Database": "it knows connections, no rows",
    "DeliveryRows.claim_deliveries": _WORKER,
    "DeliveryRows.next_slot_seconds": _WORKER,
    "EndRows": _LOCKED,
    "server_info": "looks at the server, at no rows",
    "AdditionalDocumentRows.record_asked": _LEASED,
    "AdditionalDocumentRows.leave": _LEASED,
    "AdditionalDocumentRows.withdraw": _LEASED,
    "AdditionalDocumentUnitRows": _LOCKED,
    "Hasher": "one secret for the installation",
    "RecordingRows.uncut": _LEASED,
    "RecordingUploadRows.release": _LEASED,
    "RecordingUploadRows.delete_over": _WORKER,
    "SessionRows.begin_upload": _LEASED,
    "audio_blocks.in_blocks": "bytes of the caller's own, no rows",
    "_Bytes.read": "bytes of the caller's own, no rows",
    "IdempotencyRows.forget_old": _WORKER,
    "NamedLeaseRows": "names of work, no rows of a tenant",
    "EncryptionKeyRows": "the installation's encryption keys",
    "migrate.check_schema": "looks at the schema, at no rows",
    "LedgerRows.fold": "a day of all tenants, each counted by itself",
    "LedgerRows.recount": _WORKER,
    "QueueDepthRows": "the installation's figures: how much is due, not whose",
    "RowDecryptor": "opens a row that a tenant's finder has found",
    "ReencryptionRows": _WORKER,
    "ResultRows": "the worker goes over all tenants, and then holds a lease or a lock",
    "additional_documents.drop_additional_document": _LEASED,
    "RetentionRows.due": _WORKER,
    "RetentionRows.purge_audio": _WORKER,
    "SessionRows.tenant_of": _OPERATOR,
    "SessionRows.record_created": _LEASED,
    "SessionRows.is_cancelled": "of a session that the caller has a call to EkaScribe for",
    "SessionRows.record_never_created": _LEASED,
    "SessionRows.reschedule_pending_call": _LEASED,
    "SessionRows.release_pending_call": _LEASED,
    "AudioRows.release": _LEASED,
    "AudioRows.expire_lease": _LEASED,
    "AudioObjectRows": "of a block that AudioBlockRows found, or the cleanup of the worker",
    "AudioBlockRows": "of a chunk whose session was found by its tenant, or is leased",
    "HeldAudioRows": _LEASED,
    "StreamAudioRows": _CAPABILITY,
    "SessionRows.begin_stream_handover": _LEASED,
    "SessionRows.record_end_confirmed": _LEASED,
    "SessionRows.remake": _LEASED,
    "SessionRows.hold_create": _LEASED,
    "SessionRows.read_plan": _LEASED,
    "SessionRows.renew_pending_call": _LEASED,
    "SessionRows.record_cancel_settled": _LEASED,
    "SessionRows.claim_pending_calls": _WORKER,
    "SessionRows.state_tokens": _FOUND,
    "SessionRows.traceparent": "names a trace, nothing of the session",
    "SessionRows.timeline_tokens": _FOUND,
    "SessionQueries.entries": _FOUND,
    "SessionQueries.entry_pages": _FOUND,
    "SettleRows": _LOCKED,
    "DocumentUnitRows": _LOCKED,
    "StreamRows": _CAPABILITY,
    "VendorTokenRows": "the vendor's tokens, by account",
    "MedscribeTokens": "tokens are signed, and say which key they stand for",
    "MedscribeQueries.is_pending": _FOUND,
    "WebhookEventRows.receive": "told the account that signed",
    "migrate.migrate": "the schema, not its rows",
}

# A call of a handler that does not hand on the principal → why.
HANDLER_CALLS = {
    "audio.streams.opened": _CAPABILITY,
    "medscribe.tokens.principal": "it finds out who asks",
    "medscribe.tokens.read": "it finds out who asks",
    "sessions.queries.entry_pages": "of a session that is_over() has just found by its tenant",
    "medscribe.queries.is_pending": "of a session that session() has just found by its tenant",
    "webhooks.receiver.receive": "told the account that signed",
}
SERVICES = frozenset(
    {
        "access.api_keys", "audio.streams", "audio.uploads", "deliveries.changes", "deliveries.queries",
        "destinations.changes", "destinations.queries", "medscribe.queries", "medscribe.tokens",
        "operations.audit", "operations.ledger", "sessions.additional_documents", "sessions.creator",
        "sessions.lifecycle", "sessions.queries", "sessions.read_audit", "sessions.updates",
        "webhooks.receiver",
    }
)  # fmt: skip


def covered_by(name: str, reasons: dict[str, str]) -> str | None:
    """The entry that answers for a name: its own, or that of its file or class."""
    whole = name.partition(".")[0]
    return name if name in reasons else whole if whole in reasons else None


def bare_statements() -> set[str]:
    """The statements on tenants' tables that no tenant's id goes into."""
    found = set()
    for name, statement in queries().items():
        text = re.sub(r"--.*", "", statement)
        if TENANT_TABLES.search(text) and not BY_TENANT.search(text):
            found.add(name)
    return found


def carries_tenant(kind: Any) -> bool:
    """Whether a parameter of that type tells the tenant."""
    if kind in {TenantId, Principal, TenantId | None}:
        return True
    return (
        isinstance(kind, type) and issubclass(kind, msgspec.Struct) and "tenant_id" in kind.__struct_fields__
    )


def bare_methods() -> set[str]:
    """The public asynchronous functions of the store that are not told the tenant."""
    found = set()
    for path in sorted(STORE.glob("*.py")):
        module = importlib.import_module(f"service.store.{path.stem}")
        owners: list[tuple[str, Any]] = [(path.stem, module)]
        owners += [(name, kind) for name, kind in vars(module).items() if inspect.isclass(kind)]
        for owner, holder in owners:
            for name, function in vars(holder).items():
                plain = inspect.unwrap(function) if callable(function) else function
                if name.startswith("_") or getattr(plain, "__module__", "") != module.__name__:
                    continue
                if not inspect.isfunction(plain):
                    continue
                if not (inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)):
                    continue
                hints = get_type_hints(plain)
                if not any(carries_tenant(kind) for each, kind in hints.items() if each != "return"):
                    found.add(f"{owner}.{name}")
    return found


def bare_handler_calls() -> set[str]:
    """The calls of handlers to these services that do not hand on the principal."""
    found = set()
    for path in sorted((ROOT / "service" / "api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            words = ast.unparse(node.func).split(".")
            if words[-4:-3] != ["services"] or ".".join(words[-3:-1]) not in SERVICES:
                continue
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if not any(re.search(r"\bprincipal\b|\ballowed\b", ast.unparse(each)) for each in given):
                found.add(".".join(words[-3:]))
    return found


def test_every_statement_names_the_tenant_or_says_why_not() -> None:
    assert {name for name in bare_statements() if covered_by(name, STATEMENTS) is None} == set()


def test_every_function_of_the_store_is_told_the_tenant_or_says_why_not() -> None:
    assert {name for name in bare_methods() if covered_by(name, METHODS) is None} == set()


def test_every_call_of_a_handler_says_who_asks_or_why_not() -> None:
    assert {name for name in bare_handler_calls() if covered_by(name, HANDLER_CALLS) is None} == set()


def test_no_reason_outlives_what_it_was_given_for() -> None:
    for bare, reasons in (
        (bare_statements(), STATEMENTS),
        (bare_methods(), METHODS),
        (bare_handler_calls(), HANDLER_CALLS),
    ):
        used = {covered_by(name, reasons) for name in bare}
        assert set(reasons) - used == set()


def test_every_table_with_a_tenant_is_watched() -> None:
    made = (STORE / "migrations" / "versions").glob("*.sql")
    tables = {
        table
        for path in made
        for table, body in re.findall(
            r"CREATE TABLE (\w+) \((.*?)\n\);", path.read_text(encoding="utf-8"), re.DOTALL
        )
        if re.search(r"\b(tenant_id|session_id|delivery_id)\b", body)
    }
    assert tables
    assert {table for table in tables if not TENANT_TABLES.fullmatch(table)} == set()
