"""Certificates for tests, made as an operator makes them: with openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


@dataclass(frozen=True)
class Authority:
    """Somebody who signs certificates."""

    directory: Path
    name: str

    @property
    def path(self) -> Path:
        """Its own certificate."""
        return self.directory / f"{self.name}.pem"

    @classmethod
    def create(cls, directory: Path, name: str = "ca") -> Authority:
        """Make one."""
        key, cert = directory / f"{name}.key", directory / f"{name}.pem"
        _openssl("req", "-x509", *_KEY, "-keyout", key, "-out", cert, "-days", "2", "-subj", f"/CN={name}")
        return cls(directory, name)

    def sign(self, name: str) -> tuple[Path, Path]:
        """Return a certificate for this host, and its key."""
        key, request, cert = (self.directory / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        alternatives = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        _openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}", "-addext", alternatives)
        by = ("-CA", self.path, "-CAkey", self.directory / f"{self.name}.key", "-CAcreateserial", "-copy_extensions", "copy")
        _openssl("x509", "-req", "-in", request, *by, "-days", "2", "-out", cert)
        return cert, key


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
