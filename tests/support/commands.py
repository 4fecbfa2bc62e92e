"""Commands of `ekabridge`, run as processes."""

import asyncio
import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

from tests.support.forked import can_fork, start_forked

COMMAND_SECONDS = 30


async def ekabridge(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run a command; return its status, output and errors."""
    if not can_fork(environment):
        return await in_a_new_interpreter(environment, *arguments)
    with NamedTemporaryFile() as out, NamedTemporaryFile() as err:
        process = start_forked(arguments, environment, Path(out.name), Path(err.name))
        try:
            status = await asyncio.wait_for(process.wait(), COMMAND_SECONDS)
        except TimeoutError:
            process.kill()
            raise
        return status, out.read().decode(), err.read().decode()


async def in_a_new_interpreter(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run a command as a shell would."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.cli.main",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def bare_environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings and no others of ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EKABRIDGE_")}
    return inherited | {f"EKABRIDGE_{name}": value for name, value in settings.items()}
