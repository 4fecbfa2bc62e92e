"""The protocol's page names every code and status that its routes use besides those of /v1."""

from __future__ import annotations

import re

from service.api.medscribe.error_envelope import MEDSCRIBE_ERRORS
from tests.support.pages import ROOT, rows


def test_every_code_of_the_protocol_and_its_status_stands_in_the_table() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "service/api/medscribe").glob("*.py"))
    told = {(int(status), code) for status, code in re.findall(r'\b([45]\d\d),\s+"([a-z_]+)"', sources)}
    listed = {(int(row[1]), row[0]) for row in rows(ROOT / "docs/protocol.md", "protocol code")}
    assert told | set(MEDSCRIBE_ERRORS.values()) | {(400, "bad_request")} == listed
