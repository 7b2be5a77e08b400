"""`demo`: the main job on real data."""

import json
import os
from pathlib import Path

import click

from router.cli.options import json_option

_RESULTS = Path("build/demo.json")
#: Exit status after SIGINT and SIGTERM, as shells have it.
_INTERRUPTED, _TERMINATED = 130, 143
#: Cells of a line where no terminal says how many it has.
_FILE_WIDTH = 120


@click.command()
@click.option(
    "--strategy",
    type=click.Choice(["bandit", "canary", "ab", "interleave", "shadow"]),
    default="bandit",
    show_default=True,
    help="What to show. --arms, --assignment, --prompts and --picture are of the bandit.",
)
@click.option("--arms", type=click.Choice(["9", "3"]), default="9", show_default=True, help="Which table of real outcomes.")
@click.option(
    "--assignment",
    type=click.Choice(["per_request", "sticky_hash", "sticky_stored"]),
    default="per_request",
    show_default=True,
    help="How arms are assigned; sticky ones to users with several prompts each.",
)
@click.option("--prompts", type=click.IntRange(1), help="Drive only so many prompts.  [default: all]")
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the prompts' order and the users' behaviour."
)
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True, help="Processes of the router.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/demo.png"),
    show_default=True,
    help="Where the picture goes.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the router's data in this new directory.  [default: a temporary one, removed at the end]",
)
@click.option("--plain", is_flag=True, help="Print lines instead of the live view.")
@json_option
def demo(
    strategy: str,
    arms: str,
    assignment: str,
    prompts: int | None,
    seed: int,
    workers: int,
    picture: Path,
    keep: Path | None,
    plain: bool,
    as_json: bool,
) -> None:
    """Route, reward and learn on real LLM outcomes, then check every promise.

    Starts a router on its own Postgres, drives real prompts through it over gRPC, and turns the real score of each answer
    into what users do next. Writes build/demo.json and a picture. Exits with status 1 unless every check holds.
    """
    import asyncio

    from rich.console import Console

    from router.cli.main import fail
    from router.demo.report import Result, document, show
    from router.demo.run import Options, run_demo
    from router.demo.scene import Story
    from router.demo.service import ServiceError
    from router.demo.strategies import run_strategy

    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise click.UsageError(f"--keep {keep}: holds files already; choose a directory that is new or empty")
    # With --json, standard output is the document alone.
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    options = Options(
        arms=int(arms),
        assignment=assignment,
        seed=seed,
        workers=workers,
        prompts=prompts,
        picture=picture,
        keep=keep,
        plain=plain or bool(os.environ.get("CI")),
    )
    result: Result | None = None
    story: Story | None = None
    seconds: dict[str, float] = {}
    try:
        if strategy == "bandit":
            result = asyncio.run(run_demo(options, console))
        else:
            told = run_strategy(strategy, console, seed=seed, workers=workers, keep=keep, plain=options.plain)
            story, seconds = asyncio.run(told)
    except ServiceError as error:
        fail(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError) as interruption:
        click.echo("interrupted: the router is stopped" + ("" if keep else " and its data removed"), err=True)
        raise SystemExit(_INTERRUPTED if isinstance(interruption, KeyboardInterrupt) else _TERMINATED) from None
    if result is not None:
        found, passed, total = document(result), result.passed, result.seconds["total"]
    else:
        assert story is not None  # noqa: S101 - one of the two
        found, passed, total = {**story.document(), "seed": seed, "seconds": seconds}, story.passed, seconds["total"]
    _RESULTS.parent.mkdir(parents=True, exist_ok=True)
    _RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        if result is not None:
            show(result, console)
        elif story is not None:
            console.print(story.text(), highlight=False, soft_wrap=True)
        written = f"{picture} and {_RESULTS}" if result is not None else str(_RESULTS)
        console.print(f"\n{written} written; {total:.1f} s in all", highlight=False)
        if keep is not None:
            console.print(f"look around: bandit-router serve --data-dir {keep}", highlight=False, soft_wrap=True)
    if not passed:
        raise SystemExit(1)
