"""The oldest PostgreSQL at hand: migrations, routing, feedback and replay work on it as on the embedded one.

Runs where a server is installed as Debian does it (`apt-get install postgresql`); CI installs one and demands this test.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from running import event

from router.storage.connecting import DatabaseUrl, connect
from router.storage.migrate import migrate
from router.storage.replay import replay

DEMANDED = os.environ.get("CI") == "true"
INSTALLED = sorted(
    (path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()),
    key=lambda path: int(path.parent.name),
)
pytestmark = pytest.mark.skipif(not INSTALLED and not DEMANDED, reason="no PostgreSQL below /usr/lib/postgresql")


@pytest.fixture(scope="module")
def other_url() -> Iterator[str]:
    assert INSTALLED, "CI installs a PostgreSQL for this test"
    programs = INSTALLED[0]
    directory = Path(tempfile.mkdtemp(prefix="other-postgres-"))
    as_postgres: list[str] = []
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)
        as_postgres = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = directory / "data"

    def run(*command: str | Path) -> None:
        subprocess.run([*as_postgres, *map(str, command)], check=True, stdout=subprocess.DEVNULL, cwd=directory)

    run(programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
    run(programs / "pg_ctl", "-D", data, "-w", "-l", directory / "log", "-o", options, "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        run(programs / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop")
        shutil.rmtree(directory)


async def test_the_main_job_on_another_postgres(other_url: str, start_router) -> None:
    url = DatabaseUrl.parse(other_url)
    migrate(url)
    router = await start_router(other_url)
    await router.run()
    for n in range(40):
        decision = await router.route(unit_id=f"u{n}")
        late = event(decision.decision_id, n % 4 / 3)
        await router.reward(decision.decision_id, signal=5)
        for _ in range(2):
            await router.batch_reward([late])
    posterior = await router.arms()
    assert sum(arm.n for arm in posterior.values()) == 40
    await router.close()
    with connect(url) as connection:
        assert replay(connection).agrees
    with psycopg.connect(other_url) as connection:
        assert connection.info.server_version // 10_000 == int(INSTALLED[0].parent.name)
        assert connection.execute("SELECT count(*) FROM decision_log WHERE reward IS NOT NULL").fetchone() == (40,)
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (80,)
