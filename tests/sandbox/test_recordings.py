"""The stand-in answers every recorded exchange alike: status, shape, words.

Exchanges are replayed in conversations, a label's first part being one; each is judged by itself.
"""

from __future__ import annotations

from typing import Any

import pytest

# Their steps are registered as they are imported.
import tests.support.replay_changes
import tests.support.replay_logins
import tests.support.replay_others  # noqa: F401
from tests.sandbox.conftest import Bench
from tests.support.recordings import AUGUST, EXCHANGES, JULY, group_of
from tests.support.replay_steps import STEPS, TEMPLATES
from tests.support.replaying import Conversation

_STREAM = "an event stream of the vendor's web client, which no caller of ours uses"
UNANSWERED: dict[tuple[str, str], str] = {
    (JULY, "process_template.protocol_ag_ui.stub_model"): _STREAM,
    (AUGUST, "agent_run.good.stub_model"): _STREAM,
    (AUGUST, "agent_run.failing.stub_model"): _STREAM,
}
PLAYED: dict[tuple[str, str], dict[str, str | None]] = {}


def name_of(exchange: dict[str, Any]) -> str:
    return f"{exchange['source']}:{exchange['label']}"


async def play(bench: Bench, group: tuple[str, str]) -> dict[str, str | None]:
    if group not in PLAYED:
        source = group[0]
        exchanges = [each for each in EXCHANGES if group_of(each) == group]
        talk = Conversation(bench, source, exchanges, STEPS)
        talk.templates = dict(TEMPLATES[source])
        talk.notes["patient"] = "patient_details" if source == JULY else "session_details"
        await talk.play()
        PLAYED[group] = talk.complaints
    return PLAYED[group]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=map(name_of, EXCHANGES))
async def test_it_answers_as_recorded(bench: Bench, exchange: dict[str, Any]) -> None:
    complaint = (await play(bench, group_of(exchange)))[exchange["label"]]
    reason = UNANSWERED.get((exchange["source"], exchange["label"]))
    if reason is None:
        assert complaint is None, complaint
    else:
        assert complaint is not None, "it is answered alike now: take it off the list"
