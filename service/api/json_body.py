"""JSON bodies: read strictly, and described in the OpenAPI document by the type that reads them."""

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    Operation,
    RequestBody,
    Schema,
)

from schemas.problems import FieldError
from service.api.field_errors import field_error
from service.domain.errors import InvalidRequest

T = TypeVar("T")

MAX_JSON_BYTES = 65_536


def read_json(body: bytes, body_type: type[T]) -> T:
    """Decode a body; an empty one is `{}`. Raises InvalidRequest, each wrong field named.

    Strictly: "true" is not true and "3" is not 3, as the framework's own reading would have it.
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


def json_operation(body_type: type, example: object, *, required: bool) -> type[Operation]:
    """Return the OpenAPI operation of a handler whose JSON body is of that type, with an example of it."""

    @dataclass
    class JsonOperation(Operation):
        """Describes the body."""

        def __post_init__(self) -> None:
            # msgspec's own schema says what msgspec does: patterns, limits, and that no other field is taken.
            # The framework's components leave these out, so the schema stands here, whole.
            definitions = msgspec.json.schema(body_type, ref_template="{name}")["$defs"]
            schema = _inline_references(definitions[body_type.__name__], definitions)
            media = OpenAPIMediaType(
                schema=cast("Schema", schema), examples={"example": Example(value=example)}
            )
            self.request_body = RequestBody(content={"application/json": media}, required=required)

    return JsonOperation


def _inline_references(schema: Any, definitions: dict[str, Any]) -> Any:
    """Put what a schema refers to in the place of the reference; none of ours refers to itself."""
    if isinstance(schema, list):
        return [_inline_references(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline_references(definitions[schema["$ref"]], definitions)
    # A discriminator's mapping names the definitions that stand here themselves now.
    return {
        name: _inline_references(each, definitions)
        for name, each in schema.items()
        if name != "discriminator"
    }
