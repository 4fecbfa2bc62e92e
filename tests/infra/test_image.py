"""The image: built and started where there is a builder; its own steps in a clean folder everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the Dockerfile's build stage copies, and nothing else.
COPIED = ("pyproject.toml", "README.md", "LICENSE", "schemas", "service")


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel(folder: Path) -> Path:
    """Make the wheel as the Dockerfile does, from what it copies."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "wheels", ".")
    run(sys.executable, "-m", "pip", "wheel", *options, folder=source, SOURCE_DATE_EPOCH="1700000000")
    (made,) = (folder / "wheels").glob("*.whl")
    return made


def test_its_steps_work_in_a_clean_folder_and_make_the_same_bytes_each_time(tmp_path: Path) -> None:
    made, again = wheel(tmp_path / "once"), wheel(tmp_path / "twice")
    assert made.name == again.name
    assert made.read_bytes() == again.read_bytes()

    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, folder=tmp_path)
    python = venv / "bin" / "python"
    # Its dependencies are those of this environment, which are the locked ones.
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = ("install", "--no-compile", "--no-deps", "--no-index", "--ignore-installed", made)
    run(sys.executable, "-m", "pip", "--python", python, *install, folder=tmp_path)
    assert "serve" in run(venv / "bin" / "ekabridge", "--help", folder=tmp_path)
    # What is no Python came with it: statements and migrations.
    look = (
        "import service; from service.store.queries import queries; "
        "from service.store.migrate import newest_revision; "
        "print(service.__file__, len(queries()), newest_revision())"
    )
    where, statements, revision = run(python, "-c", look, folder=tmp_path, PYTHONPATH="").split()
    assert Path(where).is_relative_to(site)
    assert int(statements) > 100
    assert revision.isdigit()


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_it_is_built_and_starts() -> None:
    docker = shutil.which("docker")
    assert docker, "docker is not installed"
    name = "ekabridge:test"
    built = subprocess.run(
        [docker, "build", "--tag", name, ROOT], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    asked = subprocess.run(
        [docker, "run", "--rm", "--read-only", name, "--help"], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    assert "serve" in asked.stdout
    bare = subprocess.run(
        [docker, "run", "--rm", "--read-only", "--tmpfs", "/tmp", name], capture_output=True, check=False
    )
    assert b"EKABRIDGE_DATABASE_URL is missing" in bare.stderr + bare.stdout
