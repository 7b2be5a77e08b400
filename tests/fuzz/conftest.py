"""The router that a module of fuzz tests calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzz_target import FuzzTarget, fuzz_target
from postgres import TestCluster


@pytest.fixture(scope="module")
def target(cluster: TestCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzTarget]:
    """A router on a database of its own."""
    with (
        cluster.database_from_template("template_migrated") as url,
        fuzz_target(tmp_path_factory.mktemp("fuzz"), url) as found,
    ):
        yield found
