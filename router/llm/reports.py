"""Reports out into the world: on a terminal, as JSON, as a page, and whole or not at all into a file."""

from __future__ import annotations

import os
from pathlib import Path

from router.llm.report_html import render_html
from router.llm.report_json import render_json
from router.llm.report_terminal import render_terminal

__all__ = ["render_html", "render_json", "render_terminal", "write_file"]


def write_file(path: Path, text: str) -> None:
    """Write a file so that readers find the old one or the whole new one. Raises OSError that names the path."""
    try:
        if path.exists() and not path.is_file():
            # A pipe or a terminal cannot be replaced; a directory says so by itself.
            path.write_text(text, encoding="utf-8")
            return
        # Through a link, what it points to is replaced.
        target = path.resolve()
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with beside.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror or error})", str(path)) from error
