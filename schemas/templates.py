"""Ids of templates."""

from typing import Annotated

from msgspec import Meta

# `$` alone would accept a final newline.
TemplateName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$(?!\n)")]


Templates = Annotated[
    list[TemplateName],
    Meta(
        min_length=1,
        max_length=2,
        description="Ids of the templates to extract",
        examples=[["eka_emr_template"]],
    ),
]
