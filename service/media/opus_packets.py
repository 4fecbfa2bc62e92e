"""Reads how long an Opus packet is from its first bytes (RFC 6716, section 3.1)."""

RATE = 48_000
# Samples of one frame for each of the 32 configurations: SILK, hybrid, CELT.
_FRAME_SAMPLES = (
    *(480, 960, 1920, 2880) * 3,
    *(480, 960) * 2,
    *(120, 240, 480, 960) * 4,
)
_TWO_FRAMES = (1, 2)
MAX_SAMPLES = 5760


def samples_of(packet: memoryview) -> int | None:
    """Return the samples of a packet at 48 kHz, or None if it breaks the format."""
    if not packet:
        return None
    frame, code = _FRAME_SAMPLES[packet[0] >> 3], packet[0] & 3
    if code == 0:
        return frame
    if code in _TWO_FRAMES:
        return 2 * frame
    if len(packet) == 1:
        return None
    samples = frame * (packet[1] & 63)
    return samples if 0 < samples <= MAX_SAMPLES else None
