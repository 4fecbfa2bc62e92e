"""Commands and programs in the pages of docs/."""

from pathlib import Path

from tests.support.pages import blocks


def python_of(page: Path) -> str:
    return "\n\n".join(block.text for block in blocks(page) if block.language == "python")
