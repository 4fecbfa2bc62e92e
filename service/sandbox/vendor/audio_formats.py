"""The audio formats that the stand-in lists in its discovery document and accepts, letter by letter."""

# Content-Type → extension of the stored file (docs/vendor.md#audio-formats).
AUDIO_FORMATS = {
    "audio/webm;codecs=opus": "webm",
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "audio/ogg;codecs=opus": "ogg",
    "audio/mp4": "mp4",
    "audio/m4a": "m4a",
    "audio/mp3": "mp3",
}
