"""Ids as distinct types, and how they are made.

All are unguessable (96 random bits) and globally unique: at EkaScribe two accounts that chose one session
id share one audio folder (docs/vendor.md#ids-share-audio), so an id must never be derived from anything.
"""

import secrets
from typing import NewType
from uuid import UUID

TenantId = NewType("TenantId", str)
KeyId = NewType("KeyId", str)
SessionId = NewType("SessionId", str)
TemplateId = NewType("TemplateId", str)
DocumentId = NewType("DocumentId", str)
DestinationId = NewType("DestinationId", str)
DeliveryId = NewType("DeliveryId", str)
Account = NewType("Account", str)
Lease = NewType("Lease", UUID)

DEFAULT_ACCOUNT = Account("default")
# The template "id" of the Get Session call that carries no filter.
UNFILTERED = TemplateId("")


def new_session_id() -> SessionId:
    """`ses_` and 24 characters: 28 in all, within the vendor's 16 to 32 (docs/vendor.md#id-length)."""
    return SessionId(f"ses_{secrets.token_hex(12)}")


def new_tenant_id() -> TenantId:
    """`ten_` and 24 characters."""
    return TenantId(f"ten_{secrets.token_hex(12)}")


def new_key_id() -> KeyId:
    """`key_` and 24 characters."""
    return KeyId(f"key_{secrets.token_hex(12)}")


def new_document_id() -> DocumentId:
    """`doc_` and 24 characters."""
    return DocumentId(f"doc_{secrets.token_hex(12)}")


def new_destination_id() -> DestinationId:
    """`dst_` and 24 characters."""
    return DestinationId(f"dst_{secrets.token_hex(12)}")


def new_delivery_id() -> DeliveryId:
    """`msg_` and 24 characters: it is the webhook-id that the EMR sees."""
    return DeliveryId(f"msg_{secrets.token_hex(12)}")
