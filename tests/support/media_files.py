"""Recordings in every format, made by FFmpeg itself, and what a listener gets of them."""

from __future__ import annotations

import array
import io
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import av

from service.domain.audio.models import AudioFormat
from service.domain.recordings.models import CutLimits

WAV = AudioFormat("audio/wav", "wav")
OGG = AudioFormat("audio/ogg;codecs=opus", "ogg")
M4A = AudioFormat("audio/m4a", "m4a")
FORMATS = (AudioFormat("audio/ogg", "ogg"), WAV, OGG, M4A, AudioFormat("audio/mp4", "mp4"))


def limits(
    seconds: float, size: int = 10 * 1024 * 1024, formats: tuple[AudioFormat, ...] = FORMATS
) -> CutLimits:
    return CutLimits(max_seconds=seconds, max_bytes=size, formats=formats)


@cache
def voice(rate: int = 48_000, seconds: float = 2.01, channels: int = 1) -> tuple[int, ...]:
    """A tone that rises, with some noise: no two moments are alike. The second channel is quieter."""
    chance = random.Random(1)
    noise = [chance.gauss(0, 400) for _ in range(4999)]
    samples: list[int] = []
    for number in range(int(rate * seconds)):
        at = number / rate
        value = 6000 * math.sin(2 * math.pi * (200 + 150 * at) * at) + noise[number % 4999]
        samples += [int(value * (1 - 0.3 * channel)) for channel in range(channels)]
    return tuple(samples)


def encode(
    container: str,
    codec: str,
    samples: Sequence[int],
    *,
    rate: int = 48_000,
    channels: int = 1,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    with_video: bool = False,
) -> bytes:
    """A file of these samples, which are 16 bits wide and in turns of the channels."""
    file = io.BytesIO()
    layout = "mono" if channels == 1 else "stereo"
    with av.open(file, "w", format=container, container_options=container_options) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.codec_context.layout = layout
        frame = av.AudioFrame(format="s16", layout=layout, samples=len(samples) // channels)
        frame.planes[0].update(array.array("h", samples).tobytes())
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        stream.codec_context.open()
        if with_video:
            add_video(output)
        context = stream.codec_context
        resampler = av.AudioResampler(context.format.name, layout, rate, context.frame_size or 1024)
        for each in (*resampler.resample(frame), *resampler.resample(None), None):
            output.mux(stream.encode(each))
    return file.getvalue()


def add_video(output: av.container.OutputContainer) -> None:
    stream = output.add_stream("mpeg4", rate=25)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for number in range(5):
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([number * 40]) * plane.buffer_size)
        frame.pts, frame.time_base = number, Fraction(1, 25)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def video_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        add_video(output)
    return file.getvalue()


def decoded(content: bytes) -> array.array[float]:
    """The samples of a file's first channel as a player hears them; full scale is 1."""
    heard = array.array("f")
    with av.open(io.BytesIO(content)) as container:
        for frame in container.decode(audio=0):
            (channel,) = av.AudioResampler("fltp", frame.layout.name, frame.sample_rate).resample(frame)
            heard.frombytes(bytes(channel.planes[0])[: channel.samples * 4])
    return heard


def decibels(wanted: Sequence[float], got: Sequence[float]) -> float:
    """How far the difference is below the sound itself."""
    error = sum((one - other) ** 2 for one, other in zip(wanted, got, strict=True))
    power = sum(one**2 for one in wanted)
    return 10 * math.log10(power / error) if error else math.inf
