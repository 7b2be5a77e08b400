"""The names of `bandit` that other programs rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bandit


@pytest.mark.parametrize("name", bandit.__all__)
def test_each_name_is_that_of_its_module(name: str) -> None:
    found = getattr(bandit, name)
    assert found is getattr(sys.modules[found.__module__], name)
    assert found.__module__.startswith("bandit.")


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'thompson'"):
        bandit.thompson  # noqa: B018


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = "import sys, bandit; print([m for m in sys.modules if m.startswith(('bandit.', 'scipy', 'numpy'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
