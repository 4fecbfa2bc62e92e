"""Ids as distinct types, and the functions that make them.

All ids are unguessable (96 random bits) and globally unique. At EkaScribe two accounts with the same session
id share one audio folder (docs/vendor.md#ids-share-audio), so code must never derive an id from other data.
"""

import secrets
from typing import NewType
from uuid import UUID

TenantId = NewType("TenantId", str)
KeyId = NewType("KeyId", str)
SessionId = NewType("SessionId", str)
# The id under which the vendor has a session: ours, or another one if the session was made again there.
VendorSessionId = NewType("VendorSessionId", str)
TemplateId = NewType("TemplateId", str)
DocumentId = NewType("DocumentId", str)
DestinationId = NewType("DestinationId", str)
DeliveryId = NewType("DeliveryId", str)
Account = NewType("Account", str)
Lease = NewType("Lease", UUID)

DEFAULT_ACCOUNT = Account("default")
# Stands in the place of a template's id for the Get Session call without a filter.
UNFILTERED = TemplateId("")


def new_session_id() -> SessionId:
    """Make `ses_` and 24 characters: 28 in all, within the vendor's 16 to 32 (docs/vendor.md#id-length)."""
    return SessionId(f"ses_{secrets.token_hex(12)}")


def new_vendor_session_id() -> VendorSessionId:
    """Make the id of a session that is made again at the vendor; it looks like any other session's id."""
    return VendorSessionId(new_session_id())


def new_tenant_id() -> TenantId:
    """Make `ten_` and 24 characters."""
    return TenantId(f"ten_{secrets.token_hex(12)}")


def new_key_id() -> KeyId:
    """Make `key_` and 24 characters."""
    return KeyId(f"key_{secrets.token_hex(12)}")


def new_document_id() -> DocumentId:
    """Make `doc_` and 24 characters."""
    return DocumentId(f"doc_{secrets.token_hex(12)}")


def new_destination_id() -> DestinationId:
    """Make `dst_` and 24 characters."""
    return DestinationId(f"dst_{secrets.token_hex(12)}")


def new_delivery_id() -> DeliveryId:
    """Make `msg_` and 24 characters; the EMR gets this id as `webhook-id`."""
    return DeliveryId(f"msg_{secrets.token_hex(12)}")
