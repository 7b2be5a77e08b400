"""`python -m router.llm.loopback`: serve the loopback models, to try the drop-in clients without a key."""

from __future__ import annotations

import click

from router.llm.loopback.serving import run_loopback
from router.llm.loopback.world import World


@click.command()
@click.option("--listen", default="127.0.0.1:8089", show_default=True, metavar="HOST:PORT", help="Port 0 takes a free one.")
@click.option(
    "--latency", default="0-0", show_default=True, metavar="MS-MS", help="Least and greatest latency of an answer."
)
def main(listen: str, latency: str) -> None:
    """Serve models that need no key: Anthropic's and OpenAI's protocols on one port."""
    host, _, port = listen.rpartition(":")
    least, _, most = latency.partition("-")
    if not host or not port.isdigit():
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    if not least.isdigit() or not (most or least).isdigit():
        raise click.BadParameter(f"{latency!r} is not MS-MS, as in 150-400", param_hint="--latency")
    run_loopback(World(latency_ms=(float(least), float(most or least))), host, int(port))


if __name__ == "__main__":
    main()
