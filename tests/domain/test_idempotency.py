"""The hash of a keyed request outlives a deployment: the encoded form of an old request stays the same."""

from __future__ import annotations

import msgspec
import pytest

from schemas.destinations import DestinationCreate
from schemas.sessions import SessionCreate
from service.domain.idempotency import keyed_call
from tests.support.makers import TENANT

URL = "https://emr.example/hooks"


@pytest.mark.parametrize(
    ("request_", "encoded"),
    [
        (
            DestinationCreate(url=URL),
            (
                b'{"url":"https://emr.example/hooks","events":[],"templates":[],"payload":"full",'
                b'"format":"ekabridge","headers":null,"timeout_seconds":null,"rate_per_second":null,'
                b'"auth":null,"enabled":true}'
            ),
        ),
        (SessionCreate(reference="ENC-1"), b'{"reference":"ENC-1"}'),
    ],
)
def test_a_new_field_changes_no_hash_of_a_request_without_it(
    request_: msgspec.Struct, encoded: bytes
) -> None:
    """A repeat from before an upgrade would be refused as another request: a new field defaults to UNSET."""
    assert keyed_call(TENANT, "createDestination", "key", request_).request == encoded
