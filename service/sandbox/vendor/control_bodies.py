"""Reads the bodies of control calls."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import ClientException

BodyT = TypeVar("BodyT", bound=msgspec.Struct)


async def read_struct(request: Request[Any, Any, State], kind: type[BodyT]) -> BodyT:
    """Decode a control call's JSON, whatever its Content-Type; an empty body is {}.

    Raises `ClientException` (400) that names the field.
    """
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise ClientException(str(error)) from error
