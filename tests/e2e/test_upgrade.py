"""An upgrade without downtime: replicas are replaced one after the other, and the database is migrated beside them."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from books import apply, check_books, experiment_at
from processes import Service, run, serving, wait_until

from router.client import CHANNEL_OPTIONS, RouterClient, RouterError

CLIENTS = 4


def connections_to(port: int) -> int:
    """How many connections this host holds to a port, as the kernel lists them."""
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return sum(remote.endswith(f":{port:04X}") and state == "01" for _, _, remote, state, *_ in lines)


@pytest.mark.slow
def test_two_replicas_are_replaced_one_after_the_other_without_a_failed_call(tmp_path: Path, database_url: str) -> None:
    """As on two machines behind one name: each is stopped, migrates, and is started anew, while clients go on."""
    database = ("--database-url", database_url)
    answered: list[str] = []
    rewarded: list[str] = []
    failures: list[str] = []
    over = threading.Event()

    def client_loop(number: int, target: str) -> None:
        options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(target, options=options) as channel, RouterClient(channel=channel) as client:
            step = 0
            while not over.is_set():
                step += 1
                try:
                    decision = client.route("support", unit_id=f"{number}-{step}", timeout=15)
                    answered.append(decision.decision_id)
                    client.reward(decision, event_id="e", signal="task_completed", timeout=15)
                    rewarded.append(decision.decision_id)
                except RouterError as error:
                    failures.append(f"{error.code}: {error}")

    def more(count: int) -> None:
        goal = len(rewarded) + count
        wait_until(lambda: len(rewarded) > goal, f"{count} more rewards", 60)

    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> Service:
            return stack.enter_context(serving(tmp_path / name, *database, *arguments))

        one, two = start("one"), start("two")
        apply(experiment_at(tmp_path), one.target)
        target = f"ipv4:{one.target},{two.target}"
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        loops = [pool.submit(client_loop, number, target) for number in range(CLIENTS)]
        stack.callback(over.set)
        more(100)
        assert one.stop() == 0
        more(30)
        assert run("migrate", *database).returncode == 0
        one = start("one", "--listen", one.target)
        # The next one goes once clients have found this one.
        wait_until(lambda: connections_to(one.port) >= CLIENTS, "clients have found the new one")
        assert two.stop() == 0
        more(30)
        two = start("two", "--listen", two.target)
        wait_until(lambda: connections_to(two.port) >= CLIENTS, "clients have found the other new one")
        assert one.stop() == 0
        more(30)
        over.set()
        for loop in loops:
            loop.result(60)
        assert failures == []
        check_books(database_url, answered=len(answered), rewarded=len(rewarded))
        assert two.stop() == 0
