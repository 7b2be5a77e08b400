"""`bandit-router`: the group of commands, and how they fail: one line that says what is wrong and what to do."""

import json
import sys
from importlib import import_module
from importlib.metadata import version
from keyword import iskeyword
from typing import Any, NoReturn

import click

#: Where each command lives. Only the one that runs is imported: statistics and drivers take a second to load.
_COMMANDS = {
    "apply": ("apply", "Create or update experiments from files, and start them."),
    "audit": ("audit_log", "List who called for which administrative act."),
    "backup": ("backup", "Write the whole database to a file."),
    "demo": ("demo", "Route, reward and learn on real LLM outcomes."),
    "doctor": ("doctor", "Find what keeps the service from working."),
    "estimate": ("estimate", "Say what the log tells of arms, policies and learners."),
    "evaluate": ("evaluate", "Compare arms on a dataset, before they meet users."),
    "export": ("export", "Write experiments, and what was logged, as files."),
    "forget": ("forget", "Erase the identifiers of a unit."),
    "import": ("imports", "Bring outcomes from elsewhere, as a prior or as evidence."),
    "init": ("init", "Write a commented experiment file."),
    "judge": ("judge", "Let a model compare shadow answers with those that were served."),
    "keys": ("keys", "Make, list, replace and revoke API keys, and signing keys."),
    "migrate": ("migrate", "Bring the database to this version's schema."),
    "picture": ("picture", "Draw an experiment: posteriors, shares, regret, estimates."),
    "plan": ("plan", "Say which strategy answers a question, and what it takes."),
    "ramp": ("ramp", "Follow a canary ramp, and say how it goes on."),
    "replay": ("replay", "Compute evidence again from the log and compare."),
    "restore": ("backup", "Fill an empty database from a backup."),
    "serve": ("serve", "Run the router until SIGTERM."),
    "status": ("status", "Show experiments, their ramps and their posteriors."),
    "transitions": ("ramp", "List what changed an experiment, and who did."),
}


class _Group(click.Group):
    """Imports commands on use, and turns their expected errors into one line and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"router.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            message = explained(error)
            if message is None:
                raise
            fail(message)


def explained(error: Exception) -> str | None:
    """Return what to tell the user of an error that is no fault of the program; None for a fault."""
    import grpc

    from router.client import RouterError
    from router.client._errors import from_rpc
    from router.config import ExperimentFileError
    from router.embedded import EmbeddedPostgresError
    from router.settings import SettingsError, StartError
    from router.storage.errors import StorageError

    if isinstance(error, grpc.RpcError):
        ours = from_rpc(error)
        if ours.code is grpc.StatusCode.UNAVAILABLE and not ours.reason:
            return (
                f"no router answers there ({ours.message}): start one with `bandit-router serve`, or give --server HOST:PORT"
            )
        return str(ours)
    if isinstance(error, OSError) and not isinstance(error, SettingsError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    known = (SettingsError, StorageError, EmbeddedPostgresError, ExperimentFileError, StartError, RouterError)
    return str(error) if isinstance(error, known) else None


def fail(message: str) -> NoReturn:
    """Print an error, as JSON where the command was asked for JSON, and exit with status 1."""
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": message}))
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("bandit-router"), prog_name="bandit-router")
def main() -> None:
    """Route requests to LLMs, prompts or parameters, and learn from what users do next."""
