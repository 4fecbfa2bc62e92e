"""The three servers that the stand-in can be: where their words, fields and lists differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CharacterName = Literal["hosted", "onprem-2026-07", "onprem-2026-08"]

_INDIAN = ("hi", "gu", "kn", "ml", "ta", "te", "bn", "mr", "pa", "or", "as")
_WORLD = (
    "es af sq am ar hy az ba eu be bs br bg ca zh zh-CN zh-TW hr cs da nl et fo fi fr gl ka de de-CH el ht "
    "ha he hu is id it ja jv kk km ko lo la lv ln lt lb mk mg ms mt mi mn my ne no nn oc ps fa pl pt ro ru "
    "sa sr sn sd si sk sl so su sw sv tl tg tt th bo tr tk uk ur uz vi cy yi yo ny zu xh st tn ts ss ve nr"
)
_JULY = ("en-IN", "en-US", *_INDIAN, "auto_detect", "en", "en-GB", *_WORLD.split())
_TWELVE = ("en", *_INDIAN)


@dataclass(frozen=True)
class Character:
    """The names, words and accounts in which one vendor server differs from the others."""

    service_name: str
    patient_field: str
    languages: tuple[str, ...]
    lite_languages: tuple[str, ...]
    auto_detection: bool
    client_id: str
    user_uuid: str
    user_oid: str
    failure_word: str
    process_protocols: tuple[str, ...]


CHARACTERS: dict[CharacterName, Character] = {
    "hosted": Character(
        service_name="Scribe Service",
        patient_field="patient_details",
        languages=_TWELVE,
        lite_languages=_TWELVE,
        auto_detection=False,
        client_id="sandbox",
        user_uuid="00000000-0000-0000-0000-000000000001",
        user_oid="sandbox-oid",
        failure_word="failed",
        process_protocols=("agent", "ag-ui", "stream"),
    ),
    "onprem-2026-07": Character(
        service_name="EkaScribe OSS Medical Scribe Service",
        patient_field="patient_details",
        languages=_JULY,
        lite_languages=("en", "hi"),
        auto_detection=True,
        client_id="client-1",
        user_uuid="00000000-0000-0000-0000-000000000001",
        user_oid="onprem-doctor-oid",
        failure_word="failure",
        process_protocols=("agent", "ag-ui", "stream"),
    ),
    "onprem-2026-08": Character(
        service_name="Scribe Service",
        patient_field="session_details",
        languages=_TWELVE,
        lite_languages=_TWELVE,
        auto_detection=False,
        client_id="onprem-workspace",
        user_uuid="00000000-0000-0000-0000-000000000008",
        user_oid="oid-sandbox",
        failure_word="failure",
        process_protocols=("ag-ui",),
    ),
}
