"""How a dictation can come out at the vendor, and what its EMR must be told then.

The beginning of a template's id decides what the stand-in makes of it. A template that begins with `slow`
stays pending until the run writes its document, so that a case chooses when and in which order documents are
finished.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.sandbox.vendor.characters import CharacterName
from service.sandbox.vendor.settings import Outcome

NOTE, LETTER, SLOW = "eka_emr_template", "clinical_notes_template", "slow_letter"
LLM_CODE, POOR_AUDIO, ODD_STATUS = "llm_structring_failure", "audio_quality_poor", "some_new_status"
LLM_ERROR = {"type": "error", "code": LLM_CODE, "msg": "Something went wrong. Please try again."}
CONTENT = {"assessment": "Acute bronchitis", "plan": "Fluids, rest, review in three days"}
# After so many seconds the vendor's unfiltered answer calls a pending document failed, without a reason.
VENDOR_SECONDS = 120.0
LATE_SECONDS = 200.0
# A failed transcription is told within four minutes, doubted content after ten.
_MAX_STT_SECONDS, _DOUBT_SECONDS, _MAX_DOUBT_SECONDS = 240.0, 600.0, 900.0
_MAX_SECONDS = 150.0


@dataclass(frozen=True)
class Told:
    """One event that the EMR gets; `warnings` are codes, ours or the vendor's, that its document carries."""

    type: str
    template_id: str | None = None
    code: str | None = None
    vendor_code: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """What the vendor finishes, so many seconds after the end; None leaves the content as it is.

    `is_refreshed`: a hospital then asks for the session again, as it must where the vendor has no webhooks.
    """

    at: float
    template_id: str
    status: str
    content: Any = None
    errors: list[Any] = field(default_factory=list)
    is_refreshed: bool = False


@dataclass(frozen=True)
class Case:
    """One dictation: its templates, what becomes of them, what is told, and within which bounds.

    `decided_seconds`: when the vendor's answers are final; None: at the first look. `undecided`: how many
    templates are asked for again until then. `min_seconds`: nothing more is told before that.
    """

    templates: list[str]
    told: list[Told]
    status: str
    outcome: Outcome | None = None
    steps: list[Step] = field(default_factory=list)
    undecided: int = 0
    decided_seconds: float | None = None
    min_seconds: float = 0.0
    max_seconds: float = _MAX_SECONDS
    is_all_good: bool = False

    def max_calls(self, character: CharacterName) -> int:
        """Bound the calls of Get Session: n where all is well, n + 2 where all is final, else the schedules.

        Filtered answers of the servers on premises carry no transcript: one call more fetches it.
        """
        if self.is_all_good:
            return len(self.templates) + (character != "hosted")
        calls = len(self.templates) + 2
        if self.decided_seconds is not None:
            calls += self.undecided * (8 + round(self.decided_seconds / 30))
            calls += 4 + round(self.decided_seconds / 200)
        return calls


Variant = Callable[[random.Random], Case]


def _ready(template_id: str, *warnings: str) -> Told:
    return Told("document.ready", template_id, warnings=warnings)


def _failed(template_id: str, code: str = "template_failed", vendor_code: str | None = LLM_CODE) -> Told:
    return Told("document.failed", template_id, code, vendor_code)


def _at_once(templates: list[str], told: list[Told], status: str = "partial", **fields: Any) -> Variant:
    """A case without chance."""
    return lambda _: Case(templates, told, status, **fields)


def _good(templates: list[str], told: list[Told]) -> Variant:
    """A case in which all is well."""
    return _at_once(templates, told, "completed", is_all_good=True)


def _finished_at(
    templates: list[str],
    told: list[Told],
    status: str = "partial",
    *,
    between: tuple[float, float],
    is_good: bool = True,
) -> Variant:
    """A case whose slow template is finished at a moment of chance."""

    def make(jitter: random.Random) -> Case:
        at = jitter.uniform(*between)
        good, bad = Step(at, SLOW, "success", CONTENT), Step(at, SLOW, "failure", errors=[LLM_ERROR])
        return Case(
            templates,
            told,
            status,
            steps=[good if is_good else bad],
            undecided=1,
            decided_seconds=at,
            max_seconds=at + _MAX_SECONDS,
        )

    return make


def _doubted(templates: list[str], told: list[Told]) -> Variant:
    """A case that is doubted for ten minutes and then told."""
    return _at_once(
        templates,
        told,
        undecided=1,
        decided_seconds=_MAX_DOUBT_SECONDS,
        min_seconds=_DOUBT_SECONDS,
        max_seconds=_MAX_DOUBT_SECONDS,
    )


def _late(*templates: str) -> Variant:
    """A case with a success whose content comes later."""
    return _at_once(
        list(templates),
        list(map(_ready, templates)),
        "completed",
        undecided=1,
        decided_seconds=LATE_SECONDS,
        max_seconds=LATE_SECONDS + 2 * _MAX_SECONDS,
    )


def _stt_failed(*templates: str) -> Variant:
    return _at_once(
        list(templates),
        [Told("session.failed", code="vendor_failed")],
        "failed",
        outcome="stt_failed",
        undecided=len(templates),
        decided_seconds=VENDOR_SECONDS,
        max_seconds=_MAX_STT_SECONDS,
    )


def _odd_for_a_while(jitter: random.Random) -> Case:
    at = jitter.uniform(60.0, 400.0)
    return Case(
        [NOTE, "odd_letter"],
        [_ready(NOTE), _ready("odd_letter")],
        "completed",
        steps=[Step(at, "odd_letter", "success")],
        undecided=1,
        decided_seconds=at,
        max_seconds=at + 2 * _MAX_SECONDS,
    )


def _after_all(jitter: random.Random) -> Case:
    """A document that is made after the EMR was told that it failed: it comes as well."""
    at = jitter.uniform(400.0, 600.0)
    return Case(
        [NOTE, SLOW],
        [_ready(NOTE), _failed(SLOW, vendor_code=None), _ready(SLOW)],
        "completed",
        steps=[Step(at, SLOW, "success", CONTENT, is_refreshed=True)],
        undecided=1,
        decided_seconds=at,
        max_seconds=at + _MAX_SECONDS,
    )


_ONE_FAILS = [_ready(NOTE), _failed("fail_letter")]
_SLOW_FAILS = [_ready(NOTE), _failed(SLOW)]
_SLOW_IS_GOOD = [_ready(SLOW), _failed("fail_letter")]
_BOTH_GOOD = [_ready(NOTE), _ready(SLOW)]
_BEFORE, _AFTER = (5.0, 110.0), (VENDOR_SECONDS + 5, VENDOR_SECONDS + 45)
_PARTIAL = _ready("partial_letter", "document_partial", POOR_AUDIO)
_EMPTY = _failed("empty_letter", "document_empty", None)
_ODD = _failed("odd_letter", "document_undecided", ODD_STATUS)
_TWICE = [_ready("twice_letter"), _ready("twice_letter")]
_BY_ADDRESS = _ready("presigned_letter")

# Each scenario by its name in the table of docs/outcomes.md; its runs take its variants in turns.
SCENARIOS: dict[str, list[Variant]] = {
    "all good": [_good([NOTE, LETTER], [_ready(NOTE), _ready(LETTER)]), _good([NOTE], [_ready(NOTE)])],
    "one good, one failing, at once": [
        _at_once([NOTE, "fail_letter"], _ONE_FAILS),
        _at_once(["fail_letter", NOTE], _ONE_FAILS),
    ],
    "one good, then the other fails": [
        _finished_at([NOTE, SLOW], _SLOW_FAILS, between=_BEFORE, is_good=False),
        _finished_at([SLOW, NOTE], _SLOW_FAILS, between=_BEFORE, is_good=False),
        _finished_at([SLOW, NOTE], _SLOW_FAILS, between=_AFTER, is_good=False),
    ],
    "one failing, then the other is good": [
        _finished_at([SLOW, "fail_letter"], _SLOW_IS_GOOD, between=_BEFORE),
        _finished_at(["fail_letter", SLOW], _SLOW_IS_GOOD, between=_BEFORE),
        _finished_at(["fail_letter", SLOW], _SLOW_IS_GOOD, between=_AFTER),
    ],
    "both failing": [_at_once(["fail_note", "fail_letter"], [_failed("fail_note"), _failed("fail_letter")])],
    "partial success": [
        _at_once([NOTE, "partial_letter"], [_ready(NOTE), _PARTIAL]),
        _at_once(["partial_letter", NOTE], [_ready(NOTE), _PARTIAL]),
        _at_once(["partial_letter"], [_PARTIAL]),
        _at_once(["partial_letter", "fail_letter"], [_PARTIAL, _failed("fail_letter")]),
    ],
    "empty success": [
        _doubted([NOTE, "empty_letter"], [_ready(NOTE), _EMPTY]),
        _doubted(["empty_letter"], [_EMPTY]),
    ],
    "empty success, content later": [_late(NOTE, "late_letter"), _late("late_letter")],
    "failed transcription": [_stt_failed(NOTE, LETTER), _stt_failed(NOTE)],
    "slow second document": [
        _finished_at([NOTE, SLOW], _BOTH_GOOD, "completed", between=_BEFORE),
        _finished_at([NOTE, SLOW], _BOTH_GOOD, "completed", between=_AFTER),
    ],
    "document after it was told as failed": [_after_all],
    "two documents of one template": [
        _good(["twice_letter"], _TWICE),
        _good([NOTE, "twice_letter"], [_ready(NOTE), *_TWICE]),
    ],
    "unknown status": [_doubted([NOTE, "odd_letter"], [_ready(NOTE), _ODD]), _odd_for_a_while],
    "presigned content": [
        _good(["presigned_letter", NOTE], [_ready(NOTE), _BY_ADDRESS]),
        _good(["presigned_letter"], [_BY_ADDRESS]),
    ],
}
