"""The command line: one module for each family of commands."""

from router.cli.main import main

__all__ = ["main"]
