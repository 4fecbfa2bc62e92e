"""Wall clocks that a test may shift, one for each process: a shim that the C compiler makes (Linux)."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock_shim.c")


class Clocks:
    """Makes clocks in a folder that every user may enter; none where there is no C compiler, or no Linux."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shim = folder / "clock_shim.so"
        self.why_not = self._build()

    def _build(self) -> str | None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if sys.platform != "linux" or compiler is None:
            return "clocks do not jump here: that takes Linux and a C compiler"
        made = subprocess.run(
            [compiler, "-O1", "-shared", "-fPIC", "-o", self._shim, _SOURCE], capture_output=True, check=False
        )
        if made.returncode != 0:
            return f"clocks do not jump here: {compiler} could not make the shim"
        self._shim.chmod(0o755)
        return None

    def environment(self, name: str, seconds: float = 0.0) -> dict[str, str]:
        """What a process with this clock has to get; at first it is off by so much."""
        if self.why_not is not None:
            return {}
        self.shift(name, seconds)
        return {"LD_PRELOAD": str(self._shim), "CHAOS_CLOCK": str(self._file(name))}

    def shift(self, name: str, seconds: float) -> None:
        """Let the clock of that name be off by so much."""
        path = self._file(name)
        with path.open("r+b" if path.exists() else "w+b") as file:  # in place: it is mapped
            file.write(struct.pack("=q", round(seconds * 1e9)))
        path.chmod(0o644)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.clock"
