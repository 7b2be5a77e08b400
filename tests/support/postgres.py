"""A Postgres for tests: one server for a session, one database for a test.

A server takes about a second to create, a database copied from a template some tens of milliseconds. So a session (a
worker process, under pytest-xdist) starts one cluster, migrates one template, and copies it for each test:

    @pytest.fixture(scope="session")
    def cluster() -> Iterator[TestCluster]:
        with TestCluster() as cluster:
            migrate(cluster.create_database("template_migrated"))
            yield cluster

    @pytest.fixture
    def database_url(cluster: TestCluster) -> Iterator[str]:
        with cluster.database_from_template("template_migrated") as url:
            yield url
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from router.embedded import EmbeddedPostgres

#: Nothing here has to survive a crash. Small buffers make copying a template cheap: it writes out all that are dirty.
SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # DROP DATABASE waits for every backend, also for one whose client was cancelled while it signed in: up to this long.
    "authentication_timeout": "5s",
}


class TestCluster:
    """An `EmbeddedPostgres` in a temporary directory, with databases made and dropped on demand."""

    __test__ = False  # its name notwithstanding, pytest must not collect it

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """Prepare a cluster whose server settings are ours with the given ones on top."""
        self._directory = Path(tempfile.mkdtemp(prefix="bandit-router-tests-", dir=_in_memory()))
        self.postgres = EmbeddedPostgres(self._directory / "data", settings={**SETTINGS, **(settings or {})})
        self._admin: psycopg.Connection | None = None
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Start the server."""
        self.postgres.start()
        self._admin = psycopg.connect(self.url_of("postgres"), autocommit=True)

    def stop(self) -> None:
        """Stop the server and remove its files."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        self.postgres.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> TestCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def url_of(self, name: str) -> str:
        """The URL of a database, as superuser."""
        return urlsplit(self.postgres.url)._replace(path=f"/{name}").geturl()

    def analyst_url_of(self, name: str) -> str:
        """The URL of a database, as the read-only analyst."""
        return urlsplit(self.postgres.analyst_url)._replace(path=f"/{name}").geturl()

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        return self.create_database_from_template("template1", name)

    def create_database_from_template(self, template: str, name: str) -> str:
        """Create a copy of a database and return its URL; nobody may be connected to the template."""
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self._execute(copy.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, if it exists, and whatever is still connected to it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def database_from_template(self, template: str) -> Iterator[str]:
        """A copy of a database under a name of its own, dropped afterwards; yields its URL."""
        name = f"test_{next(self._numbers)}"
        try:
            yield self.create_database_from_template(template, name)
        finally:
            self.drop_database(name)

    def _execute(self, statement: sql.Composed) -> None:
        if self._admin is None:
            raise RuntimeError("the cluster is not started")
        self._admin.execute(statement)


def _in_memory() -> Path | None:
    """A file system in memory, if it has room: on a busy disk a copy takes ten times as long. None: the usual place."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30 else None
