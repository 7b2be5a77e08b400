"""What is in deploy/, read for tests: the Dockerfile's instructions, the containers of Compose and of Kubernetes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from router.cli.main import main

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "compose.yaml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


@dataclass(frozen=True)
class Instruction:
    """One of a Dockerfile, with the stage that it is in, from 0."""

    stage: int
    name: str
    text: str


def instructions() -> list[Instruction]:
    """The Dockerfile's, joined where they go on with the next line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[Instruction] = []
    stage = -1
    for text in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = text.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, rest.strip()))
    return found


def image_environment() -> dict[str, str]:
    """What ENV sets in the last stage."""
    last = instructions()[-1].stage
    pairs = [pair for found in instructions() if (found.stage, found.name) == (last, "ENV") for pair in found.text.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def image_list(name: str) -> list[str]:
    """A list such as ENTRYPOINT's; of HEALTHCHECK that of its command."""
    (found,) = [found.text for found in instructions() if found.name == name]
    parsed: list[str] = json.loads(found[found.index("[") :])
    return parsed


@dataclass(frozen=True)
class Container:
    """A container that runs our image."""

    name: str
    arguments: Sequence[str]
    #: What it is told besides the image's own; of a secret the reference as it stands.
    environment: Mapping[str, str]
    raw: Mapping[str, Any] = field(hash=False)

    @property
    def told(self) -> dict[str, str]:
        """Its whole environment."""
        return {**image_environment(), **self.environment}


def compose() -> dict[str, Any]:
    """The Compose file."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def compose_containers() -> list[Container]:
    """The services that run our image."""
    return [
        Container(name, service.get("command", image_list("CMD")), service.get("environment", {}), service)
        for name, service in compose()["services"].items()
        if service["image"].startswith("bandit-router:")
    ]


def resources() -> list[dict[str, Any]]:
    """Every resource of the manifests."""
    return [resource for path in MANIFESTS for resource in yaml.safe_load_all(path.read_text())]


def resource(kind: str, name: str = "bandit-router") -> dict[str, Any]:
    """One of them."""
    (found,) = [found for found in resources() if (found["kind"], found["metadata"]["name"]) == (kind, name)]
    return found


def pod_templates() -> list[dict[str, Any]]:
    """The templates of whatever makes pods."""
    return [found["spec"]["template"] for found in resources() if "template" in found.get("spec", {})]


def kubernetes_containers() -> list[Container]:
    """The containers of all pods, secrets given as SECRET/KEY."""
    found = []
    for template in pod_templates():
        for raw in template["spec"]["containers"]:
            environment = {}
            for variable in raw.get("env", []):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                environment[variable["name"]] = f"{secret['name']}/{secret['key']}" if secret else variable["value"]
            found.append(Container(raw["name"], raw.get("args", image_list("CMD")), environment, raw))
    return found


def commands(group: click.Group = main) -> Iterator[click.Command]:
    """Every command of bandit-router, those of groups too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command)
        elif command is not None:
            yield command


def settings() -> set[str]:
    """Every variable that an option reads."""
    return {
        variable
        for command in commands()
        for parameter in command.params
        for variable in ([parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or [])
    }
