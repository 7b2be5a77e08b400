"""The clock of a replica steps, back over midnight and forward again, between decisions and their rewards."""

import asyncio
import time
from pathlib import Path

import psycopg

from benchmarks.soak import figures
from benchmarks.soak.figures import Figure
from benchmarks.soak.stage import Stage
from router.client import AsyncRouterClient, Decision, RewardEvent, RewardResult, RouteRequest, Status
from router.clocks import Clocks
from router.keeper import Keeper
from router.server import Server
from router.settings import WorkerSettings
from router.storage.replay import replay

#: Where the clock is moved to, in seconds from the right time.
_STEPS_S = (0, -3_600, -26 * 3_600, 2 * 3_600, -2, 0)


def stepping_back(stage: Stage, directory: Path, *, decisions: int) -> list[Figure]:
    """Decide and reward at every step, in a replica of its own on the stage's database: each event counts once."""
    experiment_ids = [name for name in stage.experiments("clock stepping") if not name.endswith("brief")]
    return asyncio.run(_stepping_back(stage.service.url, experiment_ids, directory, decisions))


async def _stepping_back(url: str, experiment_ids: list[str], directory: Path, decisions: int) -> list[Figure]:
    shift_s = 0

    def now_us() -> int:
        return time.time_ns() // 1000 + shift_s * 1_000_000

    settings = WorkerSettings(host="127.0.0.1", port=0, database_url=url, spool_dir=str(directory / "spool"))
    server, keeper = Server(settings, Clocks(now_us=now_us)), Keeper(settings, Clocks(now_us=now_us))
    await server.start()
    await keeper.start()
    made: list[Decision] = []
    statuses: list[Status] = []
    try:
        async with AsyncRouterClient(f"127.0.0.1:{server.port}") as client:
            for step, shift_s in enumerate(_STEPS_S):
                requests = [
                    RouteRequest(experiment_ids[n % len(experiment_ids)], unit_id=f"user-{step}-{n % 50}")
                    for n in range(decisions)
                ]
                new = [found for found in await client.batch_route(requests) if isinstance(found, Decision)]
                # Half are rewarded before the next step, the others after it; those of the last step twice.
                told = made[-decisions // 2 :] + new[: decisions // 2] if made else new[: decisions // 2]
                made += new
                statuses += await _reward(client, told, f"after {shift_s}" if step % 2 else "once")
            statuses += await _reward(client, made, "once")
            statuses += await _reward(client, made, "once")
    finally:
        await server.stop()
        await keeper.stop()
    return await asyncio.to_thread(_figures, url, experiment_ids, made, statuses)


async def _reward(client: AsyncRouterClient, decisions: list[Decision], event_id: str) -> list[Status]:
    events = [RewardEvent(decision, event_id=event_id, signal="task_completed") for decision in decisions]
    results = await client.batch_reward(events)
    return [result.status for result in results if isinstance(result, RewardResult)]


def _figures(url: str, experiment_ids: list[str], made: list[Decision], statuses: list[Status]) -> list[Figure]:
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT incarnation FROM experiments WHERE experiment_id = ANY(%s)", (experiment_ids,)
        ).fetchall()
        numbers = [row[0] for row in rows]

        def count(statement: str) -> int:
            row = connection.execute(statement, (numbers,)).fetchone()
            assert row is not None, "there is one row"
            return int(row[0])

        stored = count("SELECT count(*) FROM decisions WHERE incarnation = ANY(%s)")
        counted = count("SELECT coalesce(sum(n), 0)::int8 FROM evidence WHERE incarnation = ANY(%s)")
        before = count("SELECT count(*) FROM events WHERE incarnation = ANY(%s) AND occurred_at < decided_at")
        days = count("SELECT count(DISTINCT decision_day) FROM decisions WHERE incarnation = ANY(%s)")
        off = sum(len(replay(connection, number).disagreements) for number in numbers)
    name, all_of_them = "clock stepping back", len(made)
    refused = sum(status not in (Status.APPLIED, Status.DUPLICATE) for status in statuses)
    return [
        Figure(f"{name}: decisions stored", stored, "decisions", f"= {all_of_them}", stored == all_of_them, f"{days} days"),
        Figure(f"{name}: outcomes counted", counted, "outcomes", f"= {all_of_them}", counted == all_of_them),
        figures.none_of(f"{name}: events that are neither applied nor duplicates", refused, "events"),
        figures.none_of(f"{name}: events before their decision", before, "events"),
        figures.none_of(f"{name}: rows of evidence off", off, "rows"),
    ]
