"""The scans find what they are for: a test of the alarm, not of the house."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from tests.security import scan

# Taken apart, so that the alarm does not ring for this file.
PLANTED = {
    "key.py": "AKIA" + "Z7Q3RWB2K5MV8N4P",
    "private.pem": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "settings.py": "client_" + 'secret = "hunter2hunter2"',
    "hash.py": f'digest = "{hashlib.sha256(b"a secret").hexdigest()}"',
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_secret_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(f"{PLANTED[name]}\n", encoding="utf-8")
    assert len(scan.secrets_in([name], tmp_path)) == 1


def test_outside_of_git_everything_is_looked_at_but_what_was_made(tmp_path: Path) -> None:
    for name in ("service/a.py", ".venv/b.py", "build/c.py", "infra/compose.env", "x.lock", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert scan.sources(tmp_path) == ["README.md", "service/a.py"]


def test_every_allowed_one_has_a_reason() -> None:
    assert scan.allowed()
    assert all(len(why) > 20 for why in scan.allowed().values())


class Service:
    """Who knows of vulnerabilities, or is out of reach."""

    def __init__(self, *answers: list[dict[str, Any]] | None) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    def __call__(self, lock: Path, _: float) -> list[dict[str, Any]] | None:
        """Answer."""
        self.asked.append(lock.read_text(encoding="utf-8").count("--hash"))
        return self.answers.pop(0)


def package(*known: str) -> dict[str, Any]:
    vulnerabilities = [{"id": each, "fix_versions": ["2.0"]} for each in known]
    return {"name": "anything", "version": "1.0", "vulns": vulnerabilities}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    made = tmp_path / "requirements.lock"
    made.write_text("a==1 \\\n    --hash=sha256:00\nb==2 \\\n    --hash=sha256:11\n", encoding="utf-8")
    return made


def test_a_known_vulnerability_is_told(lock: Path) -> None:
    service = Service([package()], [package(), package("PYSEC-1", "PYSEC-2")])
    assert list(scan.check_audit(service, lock)) == [
        "anything 1.0: PYSEC-1, mended in 2.0",
        "anything 1.0: PYSEC-2, mended in 2.0",
    ]
    assert service.asked == [1, 2], "one package is asked for before all are"


def test_what_cannot_be_asked_is_said_and_no_failure(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(scan.check_audit(Service(None), lock)) == []
    assert "NOT AUDITED" in capsys.readouterr().err
    assert list(scan.check_audit(Service([package()], None), lock)) == []
    assert "NOT AUDITED" in capsys.readouterr().err


def test_what_production_installs_is_locked_with_hashes() -> None:
    locked = scan.requirements(scan.LOCK)
    assert len(locked) > 20
    assert [each for each in locked if "==" not in each or "--hash=sha256:" not in each] == []


def test_every_exception_to_the_security_rules_has_a_reason() -> None:
    """Ruff's rules S are bandit's; all of them are on."""
    without = [
        f"{path.relative_to(scan.ROOT)}:{number}"
        for folder in ("service", "schemas")
        for path in sorted((scan.ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"# noqa: [^-]*\bS\d{3}\b", line) and not re.search(r"# noqa: [A-Z0-9, ]+ - \w", line)
    ]
    assert without == []
