"""Converts msgspec's and Litestar's error messages into {field, message} pairs for people to read.

The messages have no stable format, so nothing but their display may depend on them.
"""

import re

from schemas.problems import FieldError

_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`")
_AT_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_QUOTED_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"")
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PARAMETER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def field_error(message: str, field: str = "") -> FieldError:
    """Return the wrong field and the message without quoted values; `field` overrides the message's path.

    A quoted value may be a patient's name that a caller sent in the wrong field, so none is ever repeated.
    """
    text = _QUOTED_VALUE.sub("given", message)
    at = _AT_PATH.search(text)
    path = field or (at.group(1) if at else "")
    if at:
        text = text[: at.start()]
    unknown = _UNKNOWN_FIELD.search(text)
    if unknown:
        name = unknown.group(1) if _FIELD_NAME.fullmatch(unknown.group(1)) else "(a field)"
        return FieldError(f"{path}.{name}" if path else name, "is not a field of this request")
    return FieldError(path or "body", text)


def unknown_parameter(name: str) -> FieldError:
    """Return the error of an unknown query parameter; a name with odd characters is not repeated."""
    safe_name = name if _PARAMETER_NAME.fullmatch(name) else "(a parameter)"
    return FieldError(safe_name, "is not a parameter of this call")
