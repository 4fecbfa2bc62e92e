"""Builds what receives whole recordings in the service, and what cuts them in the worker."""

from collections.abc import Awaitable, Callable
from functools import partial

from schemas.sessions import Session
from service.api.middleware.disk_budget import max_recording_bytes
from service.domain.ids import SessionId, TenantId
from service.domain.recordings.cutting import RecordingCutter
from service.domain.recordings.intake import RecordingIntake
from service.domain.recordings.models import CutLimits
from service.domain.recordings.ports import HeldAudioRoom, RecordingStore, UncutRecordings
from service.domain.recordings.uploads import RecordingUploads, UploadStore
from service.domain.vendor import VendorLimits
from service.domain.vendor_limits import Limits
from service.domain.wakeups import PendingCallWakeups
from service.eka.audio_formats import normalise_audio_format
from service.media.reader import FFmpegReader
from service.settings import Settings
from service.temporary_files.encrypted_file import EncryptedTemporaryFile


def make_recording_intake(
    settings: Settings,
    store: RecordingStore,
    room: HeldAudioRoom,
    limits: VendorLimits,
    wakeups: PendingCallWakeups,
    read: Callable[[TenantId, SessionId], Awaitable[Session]],
) -> RecordingIntake:
    """Make what receives recordings in one call; `read` returns the session for the answer."""
    return RecordingIntake(
        store=store,
        room=room,
        reader=FFmpegReader(),
        limits=limits,
        wakeups=wakeups,
        read=read,
        reconcile_after_seconds=settings.reconcile_after_seconds,
        keep_audio=settings.keep_audio,
    )


def make_recording_uploads(
    settings: Settings, store: UploadStore, room: HeldAudioRoom, wakeups: PendingCallWakeups
) -> RecordingUploads:
    """Make what receives recordings in pieces."""
    return RecordingUploads(
        store=store,
        room=room,
        wakeups=wakeups,
        reconcile_after_seconds=settings.reconcile_after_seconds,
        max_bytes=max_recording_bytes(settings),
    )


def make_recording_cutter(
    settings: Settings, store: UncutRecordings, limits: VendorLimits
) -> RecordingCutter:
    """Make what cuts recordings in the worker."""
    return RecordingCutter(
        store=store,
        reader=FFmpegReader(),
        limits=limits,
        cut_limits=partial(_cut_limits, settings),
        open_file=EncryptedTemporaryFile,
    )


def _cut_limits(settings: Settings, limits: Limits) -> CutLimits:
    """Return the limits of a chunk that is cut from a recording."""
    named = [normalise_audio_format(each, limits.audio_formats) for each in limits.audio_formats]
    return CutLimits(
        max_seconds=limits.max_chunk_duration_seconds,
        max_bytes=limits.chunk_bytes(settings.chunk_max_bytes),
        formats=tuple(each for each in named if each is not None),
    )
