"""Looks for secrets in the sources, and for known vulnerabilities of what production installs.

`python -m tests.security.scan secrets` fails for what looks like a secret and is not in allowed_secrets.toml
with its reason. `… audit` fails for a known vulnerability of requirements.lock; where nobody who knows them
can be reached, it says so and does not fail.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings

ROOT = Path(__file__).parents[2]
ALLOWED = Path(__file__).with_name("allowed_secrets.toml")
LOCK = ROOT / "requirements.lock"

# What git does not track, where there is no git to ask: an exported tarball.
NOT_SOURCES = frozenset({".git", ".venv", "build", "dist", "__pycache__", "compose.env"})
# Sound, and locks: hashes of published files.
NOT_TEXT = frozenset({".wav", ".webm", ".lock", ".pyc"})
# Words that tests make up; what looks like a real key is found there, too, by the other detectors.
MADE_UP = ("tests/", "service/sandbox/")
MADE_UP_KINDS = frozenset({"Secret Keyword", "Basic Auth Credentials"})

Finding = tuple[str, str, str]
Ask = Callable[[Path, float], "list[dict[str, Any]] | None"]


def _told_by_git(root: Path) -> list[str] | None:
    """None outside of a repository, without git, or where it does not trust the folder's owner."""
    if not (root / ".git").exists():
        return None
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        return subprocess.run(asked, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None


def sources(root: Path = ROOT) -> list[str]:
    """The files to look at, relative to the root: those that git would keep, or all where it cannot tell."""
    listed = _told_by_git(root)
    if listed is None:
        listed = [str(path.relative_to(root)) for path in root.rglob("*")]
    return sorted(
        name
        for name in listed
        if (root / name).is_file()
        and Path(name).suffix not in NOT_TEXT
        and Path(name).name != ALLOWED.name
        and not NOT_SOURCES & set(Path(name).parts)
    )


def secrets_in(names: list[str], root: Path = ROOT) -> dict[Finding, int]:
    """What looks like a secret: file, kind and SHA-1 of it, and its line."""
    found = SecretsCollection(root=str(root))
    with default_settings():
        found.scan_files(*names)
    return {
        (name, secret.type, secret.secret_hash): secret.line_number
        for name, secret in found
        if not (secret.type in MADE_UP_KINDS and name.startswith(MADE_UP))
    }


def allowed() -> dict[Finding, str]:
    """What was looked at and is none, with the reason."""
    entries = tomllib.loads(ALLOWED.read_text(encoding="utf-8"))["allowed"]
    return {(each["file"], each["type"], each["sha1"]): each["why"] for each in entries}


def check_secrets() -> Iterator[str]:
    """What looks like a secret without a reason, and reasons that nothing needs any more."""
    found, known = secrets_in(sources()), allowed()
    for (name, kind, sha1), line in sorted(found.items()):
        if (name, kind, sha1) not in known:
            yield f"{name}:{line}: {kind} (sha1 {sha1}): take it out, or give a reason in {ALLOWED.name}"
    for name, kind, sha1 in sorted(set(known) - set(found)):
        yield f"{ALLOWED.name}: no {kind} of sha1 {sha1} in {name} any more: take the entry out"


def requirements(lock: Path) -> list[str]:
    """Each requirement of a lock, with its hashes."""
    return re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip())


def ask_pip_audit(lock: Path, seconds: float) -> list[dict[str, Any]] | None:
    """What is known of the requirements; None when nobody could be asked. Nothing is resolved."""
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--no-deps",
        "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "5",
    ]  # fmt: skip
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False).stdout
        answered: list[dict[str, Any]] = json.loads(said)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return None if all("skip_reason" in each for each in answered) else answered


def check_audit(ask: Ask = ask_pip_audit, lock: Path = LOCK) -> Iterator[str]:
    """Known vulnerabilities. One package is asked for first: where that gets no answer, no other one is."""
    first = requirements(lock)[0]
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as one:
        one.write(first + "\n")
        one.flush()
        reached = ask(Path(one.name), 10.0) is not None
    answered = ask(lock, 90.0) if reached else None
    if answered is None:
        say("audit: nobody who knows of vulnerabilities can be reached from here: NOT AUDITED")
        return
    for each in answered:
        if "skip_reason" in each:
            say(f"audit: {each['name']}: {each['skip_reason']}")
        for known in each.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"]) or "no version"
            yield f"{each['name']} {each['version']}: {known['id']}, mended in {fixed}"


def say(line: str) -> None:
    """Tell whoever runs it."""
    sys.stderr.write(f"{line}\n")


def main(which: str) -> int:
    """Run one scan and say what is wrong."""
    wrong = list({"secrets": check_secrets, "audit": check_audit}[which]())
    for each in wrong:
        say(each)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
