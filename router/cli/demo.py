"""`demo`: the main job on real data."""

import click


@click.command()
def demo() -> None:
    """Route, reward and learn on real LLM outcomes."""
