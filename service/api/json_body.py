"""Decodes JSON bodies strictly, and describes them in the OpenAPI document by the same types."""

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)

from schemas.problems import FieldError
from service.api.field_errors import field_error
from service.domain.errors import InvalidRequest

T = TypeVar("T")

MAX_JSON_BYTES = 65_536


def read_json(body: bytes, body_type: type[T]) -> T:
    """Decode a body; an empty body counts as `{}`. Raises InvalidRequest that names the wrong field.

    Litestar's own decoding would accept "true" for true and "3" for 3; this one does not.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=body_type)
    except msgspec.ValidationError as error:
        found: FieldError = field_error(str(error))
        raise InvalidRequest("the body breaks its schema; see `errors`", errors=[found]) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest("the body is not valid JSON") from None
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deeply") from None


def json_operation(body_type: type, *examples: object, required: bool) -> type[Operation]:
    """Return the OpenAPI operation of a handler with a JSON body of this type, with its examples."""
    shown: dict[str, Example | Reference] = {
        "example" if number == 1 else f"example_{number}": Example(value=each)
        for number, each in enumerate(examples, start=1)
    }

    @dataclass
    class JsonOperation(Operation):
        """Describes the body."""

        def __post_init__(self) -> None:
            # msgspec's schema contains patterns, limits and the ban on unknown fields. Litestar's components
            # would leave them out, so the whole schema is inlined here.
            definitions = msgspec.json.schema(body_type, ref_template="{name}")["$defs"]
            schema = _inline_references(definitions[body_type.__name__], definitions)
            media = OpenAPIMediaType(schema=cast("Schema", schema), examples=shown)
            self.request_body = RequestBody(content={"application/json": media}, required=required)

    return JsonOperation


def _inline_references(schema: Any, definitions: dict[str, Any]) -> Any:
    """Replace each reference in a schema by the definition; none of our schemas is recursive."""
    if isinstance(schema, list):
        return [_inline_references(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline_references(definitions[schema["$ref"]], definitions)
    # A discriminator's mapping would refer to definitions that no longer exist.
    return {
        name: _inline_references(each, definitions)
        for name, each in schema.items()
        if name != "discriminator"
    }
