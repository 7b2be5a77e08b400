"""A router as the examples meet one: with TLS, keys and the experiment of `bandit-router init`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import COMMAND, Service, serving, wait_until

from router.client import RouterClient, Tls

MAKE_CERTIFICATE = Path(__file__).parents[2] / "deploy" / "make-certificate"


@dataclass
class ExampleRouter:
    """A running router, and what its callers have to know."""

    service: Service
    directory: Path
    api_key: str

    @property
    def target(self) -> str:
        """As the certificate names it."""
        return f"localhost:{self.service.port}"

    @property
    def ca(self) -> Path:
        """Who signed the certificate."""
        return self.directory / "tls" / "ca.pem"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a program that calls it."""
        return {
            **os.environ,
            "BANDIT_ROUTER_SERVER": self.target,
            "BANDIT_ROUTER_API_KEY": self.api_key,
            "BANDIT_ROUTER_TLS_CA": str(self.ca),
        }

    def client(self) -> RouterClient:
        """A client of it."""
        return RouterClient(self.target, api_key=self.api_key, tls=Tls(ca=self.ca))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of bandit-router to its end."""
        return subprocess.run(
            [*COMMAND, *arguments], env=self.environment, cwd=self.directory, capture_output=True, text=True, timeout=60
        )

    def posterior(self) -> dict[str, dict[str, Any]]:
        """The posterior of each arm."""
        done = self.command("status", "--json")
        assert done.returncode == 0, done.stderr
        (experiment,) = json.loads(done.stdout)["experiments"]
        return {arm["arm_id"]: arm for arm in experiment["posterior"]["arms"]}

    def outcomes(self) -> int:
        """How many outcomes were learned from."""
        return sum(int(arm.get("n", 0)) for arm in self.posterior().values())

    def stop(self) -> None:
        """End it as an operator does."""
        assert self.service.stop() == 0, self.service.log

    @contextmanager
    def again(self) -> Iterator[ExampleRouter]:
        """Start it once more, on the same port and data."""
        with serving(self.directory, *_options(self.directory), "--listen", f"127.0.0.1:{self.service.port}") as service:
            yield ExampleRouter(service, self.directory, self.api_key)


@contextmanager
def example_router(directory: Path) -> Iterator[ExampleRouter]:
    """Start one, with a key for everything."""
    made = subprocess.run([MAKE_CERTIFICATE, directory / "tls", "localhost"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    with serving(directory, *_options(directory)) as service:
        roles = [option for role in ("route", "reward", "admin") for option in ("--role", role)]
        key = subprocess.run(
            [*COMMAND, "keys", "create", "--name", "example", *roles, "--data-dir", directory / "data"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert key.returncode == 0, key.stderr
        found = ExampleRouter(service, directory, key.stdout.strip())
        assert found.command("init", "support-model.yaml").returncode == 0
        # Routers hear of a new key within a second.
        wait_until(lambda: found.command("status").returncode == 0, "the key is known")
        applied = found.command("apply", "-f", "support-model.yaml")
        assert applied.returncode == 0, applied.stderr
        yield found


def _options(directory: Path) -> list[str]:
    tls = directory / "tls"
    return ["--auth", "keys", "--tls-cert", str(tls / "tls.crt"), "--tls-key", str(tls / "tls.key")]
