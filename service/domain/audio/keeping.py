"""For how long audio is kept here although the vendor has confirmed it (the setting KEEP_AUDIO)."""

from schemas.tenants import KeepAudio


def days_to_keep(choice: KeepAudio) -> int | None:
    """Return for how many days after its ending a session's confirmed audio is kept.

    0 keeps it until the session has a good ending. None keeps no audio that the vendor has confirmed.
    """
    match choice:
        case "on_trouble":
            return None
        case "until_result":
            return 0
        case days:
            return int(days)
