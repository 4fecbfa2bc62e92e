"""promtool and the files that it checks."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.tools.dashboards.figures import ROOT

RUNBOOK = ROOT / "docs/runbook.md"


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*arguments: str | Path) -> None:
    said = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr


def parses(queries: list[str], folder: Path) -> None:
    """Have promtool read queries, as if they were rules."""
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = folder / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    promtool("check", "rules", path)
