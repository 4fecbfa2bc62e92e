"""Compares the length of a recording with the limit of its session's model."""

from schemas.sessions import Model
from service.domain.errors import RecordingTooLong
from service.domain.vendor_limits import Limits


def check_length(seconds: float, model: Model, limits: Limits) -> None:
    """Raise RecordingTooLong, with both figures, if EkaScribe does not take so many seconds of audio."""
    max_seconds = next(
        (each.max_session_duration_seconds for each in limits.models if each.id == model), None
    )
    if max_seconds is not None and seconds > max_seconds:
        raise RecordingTooLong(
            f"the recording has {seconds:.0f} seconds; the model `{model}` takes {max_seconds}",
            seconds=round(seconds, 3),
            max_seconds=max_seconds,
        )
