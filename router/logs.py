"""Logs: where they go and what a line looks like."""

import logging
import sys


def configure_logging(level: str) -> None:
    """Send logs to standard error, one line each."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
