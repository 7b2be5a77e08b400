"""The virtual environment of the libraries that this project is compared with, `build/bench-venv`.

They pin other versions than ours, so they are installed apart, from `requirements/bench.txt`, on first use.
"""

import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from benchmarks import predictors
from benchmarks.load import MeasurementError

_ROOT = Path(__file__).parent.parent
_REQUIREMENTS = _ROOT / "requirements" / "bench.txt"


def python(say: Callable[[str], None]) -> str:
    """Return the interpreter of that environment, made anew when what it should hold has changed."""
    directory = _ROOT / "build" / "bench-venv"
    made_of = directory / "made-of"
    wanted = sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    if not (made_of.exists() and made_of.read_text() == wanted):
        say(f"installing {', '.join(predictors.LIBRARIES)} into {directory.relative_to(_ROOT)}: once")
        _install(directory)
        made_of.write_text(wanted)
    return str(directory / "bin" / "python")


def _install(directory: Path) -> None:
    uv = [sys.executable, "-m", "uv", "--quiet"]
    for command in (
        [*uv, "venv", "--clear", "--python", sys.executable, str(directory)],
        [*uv, "pip", "install", "--python", str(directory), "--require-hashes", "-r", str(_REQUIREMENTS)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        if done.returncode:
            raise MeasurementError(f"{', '.join(predictors.LIBRARIES)} cannot be installed: {done.stderr.strip()}")
