"""Turns the decoder's messages into {field, message}: read for display only, no rule hangs on them."""

import re

from schemas.problems import FieldError

_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`")
_AT_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_QUOTED_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"")
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PARAMETER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def field_error(message: str, field: str = "") -> FieldError:
    """Name the field and what is wrong with it; `field` is where the framework saw it, if it did.

    A message may quote the value it is about, and that may be a patient's name in the wrong place, so quoted
    values are left out.
    """
    told = _QUOTED_VALUE.sub("given", message)
    at = _AT_PATH.search(told)
    path = field or (at.group(1) if at else "")
    if at:
        told = told[: at.start()]
    unknown = _UNKNOWN_FIELD.search(told)
    if unknown:
        name = unknown.group(1) if _FIELD_NAME.fullmatch(unknown.group(1)) else "(a field)"
        return FieldError(f"{path}.{name}" if path else name, "is not a field of this request")
    return FieldError(path or "body", told)


def unknown_parameter(name: str) -> FieldError:
    """Name a query parameter that a call does not have, unless its name is none and may be anything."""
    shown = name if _PARAMETER_NAME.fullmatch(name) else "(a parameter)"
    return FieldError(shown, "is not a parameter of this call")
