"""Derived signals and silence on a real log: once each, whoever derives, however late decisions and events come."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from typing import Any

import psycopg
import pytest
from growth import BASE_US, DAY_US, HOUR_US, add_experiments, event_row
from running import assert_replay_agrees, query, scalar

from bandit.derive import derive_session
from router.controllers import derive
from router.controllers.derive import Deriver
from router.controllers.derived_events import session_decision
from router.storage.connecting import connect
from router.storage.database import Database, DatabaseUrl
from router.storage.decisions import DecisionRow
from router.storage.derived import DerivationLog
from router.storage.election import Session
from router.storage.errors import StorageUnavailableError
from router.storage.events import EventStatus
from router.storage.forget import Forgotten, erase
from router.storage.shares import number_of
from router.storage.traces import Trace
from router.storage.writer import DecisionWriter, EventWriter
from router.tokens import TokenCodec, TokenKey

S = 1_000_000
CODEC = TokenCodec(TokenKey(1, bytes(32)), {})
START_US = BASE_US + HOUR_US
RETRY = {"derived": {"retryWithin": "30s"}}
ABANDON = {"derived": {"abandonAfter": "600s"}, "matureAfter": "0s"}
REPHRASED = {"derived": {"rephrasedSimilarity": 0.8}}
SILENCE = {"matureAfter": "60s", "noFeedback": 0.25}


def us(seconds: float) -> int:
    return START_US + round(seconds * S)


@dataclass
class World:
    """A log, a clock and leaders."""

    url: str
    database: Database
    now_s: float = 0.0
    moved: list[int] = field(default_factory=list)
    leaders: list[tuple[Deriver, Any]] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.decisions = DecisionWriter(self.database)
        self.events = EventWriter(self.database)

    async def rule(self, rule: dict[str, Any], *, incarnation: int = 1, version: int = 1) -> None:
        """Write a reward rule, as an update of the definition does. Units have no share unless it says so."""
        with psycopg.connect(self.url) as connection:
            connection.execute(
                "INSERT INTO reward_rules (incarnation, version, reward_rule) VALUES (%s, %s, %s)",
                (incarnation, version, json.dumps({"unitShare": 0, **rule})),
            )
            connection.execute(
                "UPDATE policy_versions SET definition_version = definition_version + 1,"
                " policy_version = policy_version + %s WHERE incarnation = %s",
                (int(version > 1), incarnation),
            )

    async def decide(self, at_s: float, session: str = "s", turn: str = "", **fields: Any) -> DecisionRow:
        """Put a decision into the log."""
        row = self.decision(at_s, session, turn, **fields)
        await self.decisions.store([], [row])
        return row

    def decision(self, at_s: float, session: str = "s", turn: str = "", **fields: Any) -> DecisionRow:
        values = {
            "decision_key": blake2b(b"%d" % next(self.numbers), digest_size=16).digest(),
            "incarnation": 1,
            "arm": 0,
            "decided_at_us": us(at_s),
            "propensity": 0.5,
            "policy_version": 1,
            "allocation_id": bytes(16),
            "reason": "sampled",
            "unit_id": "u",
            "session_id": session,
            "turn_id": turn,
            "request_id": "",
            "segment": "",
            "prompt_fingerprint": "",
            "prompt_similarity": None,
        }
        return DecisionRow(**{**values, **fields})  # type: ignore[arg-type]

    async def send(self, decision: DecisionRow, at_s: float, reward: int | None = 1_000_000, **fields: Any) -> None:
        """An event that a client sent."""
        row = event_row(
            0,
            event=fields.pop("event", "sent"),
            reward=reward,
            decision_key=decision.decision_key,
            decided_at_us=decision.decided_at_us,
            incarnation=decision.incarnation,
            arm=decision.arm,
            occurred_at_us=us(at_s),
            received_at_us=us(at_s),
            **{"rank": 2, "kind": "signal", "signal": "task_completed", **fields},
        )
        await self.events.apply([row])

    async def leader(self, settle_s: float = 0.0) -> Deriver:
        """A leader that has seen nothing yet."""
        deriver = Deriver(
            self.database,
            clock_us=lambda: us(self.now_s),
            announce=self.moved.extend,
            hash_id=CODEC.hash_id,
            settle_us=round(settle_s * S),
        )
        connection = await self.database.connect(autocommit=True)
        self.leaders.append((deriver, connection))
        self.session = Session(connection)
        return deriver

    async def look(self, now_s: float | None = None, passes: int = 1) -> None:
        """Let the last leader do its duty."""
        if not self.leaders:
            await self.leader()
        self.now_s = self.now_s if now_s is None else now_s
        for _ in range(passes):
            await self.leaders[-1][0].work(self.session)

    async def derived(self) -> list[tuple[float, str, float]]:
        """(decision, what, when), in seconds."""
        rows = await query(
            self.url,
            "SELECT extract(epoch FROM decided_at)::float8, event_id, extract(epoch FROM occurred_at)::float8"
            " FROM events WHERE event_id LIKE 'derived:%%' ORDER BY decided_at, event_id",
        )
        start_s = START_US / S
        return [(round(d - start_s, 3), name.removeprefix("derived:"), round(o - start_s, 3)) for d, name, o in rows]

    async def outcomes(self) -> list[tuple[float, int, str]]:
        """(decision, millionths, event) of every outcome."""
        rows = await query(
            self.url,
            "SELECT extract(epoch FROM d.decided_at)::float8, o.reward_micros, o.event_id FROM outcomes o"
            " JOIN decisions d USING (decision_day, decision_key) ORDER BY 1",
        )
        return [(round(d - START_US / S, 3), micros, name) for d, micros, name in rows]

    async def close(self) -> None:
        for deriver, connection in self.leaders:
            await deriver.close()
            await connection.close()
        await self.decisions.close()
        await self.events.close()
        await self.database.dispose()


@pytest.fixture
async def world(database_url: str):
    add_experiments(database_url, 3, 2)
    world = World(database_url, Database(DatabaseUrl.parse(database_url)))
    yield world
    await assert_replay_agrees(world.url)
    await world.close()


# Each kind


async def test_nothing_is_derived_unless_a_rule_says_so(world: World):
    await world.rule({})
    await world.decide(0, turn="t")
    await world.decide(1, turn="t", prompt_similarity=1.0)
    await world.look(100_000, passes=3)
    assert await world.derived() == []


async def test_a_retry_is_an_event_about_the_earlier_decision(world: World):
    await world.rule(RETRY)
    await world.look(0)
    await world.decide(1, turn="t", arm=1)
    await world.look(2)
    assert await world.derived() == []
    await world.decide(5, turn="t")
    await world.look(6)
    assert await world.derived() == [(1, "immediate_retry", 5)]
    assert await query(world.url, "SELECT incarnation, arm, success_micros, failure_micros, n FROM evidence") == [
        (1, 1, 0, 1_000_000, 1)
    ]
    assert await query(
        world.url, "SELECT kind, signal, rank, status, details, reward_rule_version FROM events WHERE arm = 1"
    ) == [("signal", "immediate_retry", 1, "applied", {"source": "derived"}, 1)]
    assert world.moved == [1]


async def test_sessions_of_other_experiments_are_other_sessions(world: World):
    await world.rule(RETRY)
    await world.rule(RETRY, incarnation=2)
    await world.look(0)
    await world.decide(1, turn="t")
    await world.decide(2, turn="t", incarnation=2)
    await world.look(10)
    assert await world.derived() == []


async def test_a_rephrased_query(world: World):
    await world.rule(REPHRASED)
    await world.look(0)
    await world.decide(1, turn="t")
    await world.decide(20, turn="u", prompt_similarity=0.85)
    await world.decide(30, turn="v", prompt_similarity=0.5)
    await world.look(31)
    assert await world.derived() == [(1, "rephrased_query", 20)]


async def test_an_abandoned_session(world: World):
    await world.rule(ABANDON)
    await world.look(0)
    await world.decide(1)
    await world.decide(2, session="answered")
    await world.decide(3, session="")
    await world.send(await world.decide(4, session="two"), 5)
    await world.decide(6, session="two")
    answered = await world.decide(7, session="answered")
    await world.send(answered, 8)
    await world.look(600.999)
    assert await world.derived() == []
    await world.look(601)
    assert await world.derived() == [(1, "session_abandoned", 601)]
    await world.look(2_000)
    assert await world.derived() == [(1, "session_abandoned", 601), (6, "session_abandoned", 606)]


async def test_an_event_that_does_not_count_keeps_a_session_alive(world: World):
    await world.rule(ABANDON)
    await world.look(0)
    decision = await world.decide(1)
    await world.send(decision, 400, None, kind="call", signal=None)
    await world.look(999)
    assert await world.derived() == []
    await world.send(decision, 999.5, None, event="another", kind="call", signal=None)
    for now_s in (1_000, 1_599):
        await world.look(now_s)
        assert await world.derived() == []
    await world.look(1_599.5)
    assert await world.derived() == [(1, "session_abandoned", 1_599.5)]


async def test_silence_counts_once_a_decision_has_matured(world: World):
    await world.rule(SILENCE)
    await world.look(0)
    await world.decide(1, session="")
    await world.send(await world.decide(2), 3)
    await world.look(60.999)
    assert await world.derived() == []
    await world.look(61)
    assert await world.derived() == [(1, "no_feedback", 61)]
    assert await world.outcomes() == [(1, 250_000, "derived:no_feedback"), (2, 1_000_000, "sent")]
    assert await scalar(world.url, "SELECT n FROM evidence") == 1, "the other one is too young"
    await world.look(62)
    assert await query(world.url, "SELECT success_micros, n FROM evidence") == [(1_250_000, 2)]
    assert await query(world.url, "SELECT kind, signal, rank FROM events WHERE event_id LIKE 'derived:%%'") == [
        ("no_feedback", None, 0)
    ]


@pytest.mark.parametrize("reason", ["forced", "holdout"])
async def test_what_is_never_learned_from_gets_neutral_signals_and_no_silence(world: World, reason: str):
    await world.rule({**RETRY, **SILENCE, "derived": {"retryWithin": "30s", "abandonAfter": "600s"}})
    await world.look(0)
    await world.decide(1, turn="t", reason=reason)
    await world.decide(2, turn="t", reason=reason)
    told = await world.decide(3, "told", reason=reason)
    await world.send(told, 4, None)
    await world.look(5_000)
    assert await world.derived() == [(1, "immediate_retry", 2), (2, "session_abandoned", 602)]
    assert await query(world.url, "SELECT DISTINCT status FROM events") == [("neutral",)]
    assert await world.outcomes() == []


async def test_a_forced_decision_shows_that_the_one_before_was_retried(world: World):
    await world.rule(RETRY)
    await world.look(0)
    await world.decide(1, turn="t")
    await world.decide(2, turn="t", reason="forced")
    await world.look(3)
    assert await world.outcomes() == [(1, 0, "derived:immediate_retry")]


async def test_a_signal_that_is_neutral_or_has_another_reward(world: World):
    signals = [{"signal": "SIGNAL_IMMEDIATE_RETRY"}, {"signal": "SIGNAL_REPHRASED_QUERY", "reward": 0.4}]
    await world.rule({"signals": signals, "derived": {"retryWithin": "30s", "rephrasedSimilarity": 0.5}})
    await world.look(0)
    await world.decide(1, turn="t")
    await world.decide(2, turn="t")
    await world.decide(3, turn="u", prompt_similarity=0.9)
    await world.look(4)
    assert await world.derived() == [(1, "immediate_retry", 2), (2, "rephrased_query", 3)]
    assert await world.outcomes() == [(2, 400_000, "derived:rephrased_query")]


# What is sent overrides it


@pytest.mark.parametrize("sent_first", [True, False])
@pytest.mark.parametrize("kind", ["retry", "silence"])
async def test_what_is_sent_decides_whenever_it_comes(world: World, sent_first: bool, kind: str):
    await world.rule({**RETRY, **SILENCE} if kind == "silence" else RETRY)
    await world.look(0)
    decision = await world.decide(1, turn="t")
    if kind == "retry":
        await world.decide(2, turn="t")
    if sent_first:
        await world.send(decision, 1.5)
    await world.look(100)
    if not sent_first:
        expected = "derived:immediate_retry" if kind == "retry" else "derived:no_feedback"
        assert (await world.outcomes())[0][2] == expected
        await world.send(decision, 1.5)
        await world.look(101)
    assert (await world.outcomes())[0] == (1, 1_000_000, "sent")
    assert await scalar(world.url, "SELECT sum(success_micros) FROM evidence") == 1_000_000


async def test_an_inference_overrides_silence(world: World):
    await world.rule({**SILENCE, "derived": {"abandonAfter": "600s"}})
    await world.look(0)
    await world.decide(1)
    await world.look(61)
    assert await world.outcomes() == [(1, 250_000, "derived:no_feedback")]
    await world.look(601)
    assert await world.outcomes() == [(1, 0, "derived:session_abandoned")]
    assert await query(world.url, "SELECT success_micros, failure_micros, n FROM evidence") == [(0, 1_000_000, 1)]


# The rule in force when the decision was made


async def test_each_decision_by_the_rule_that_was_in_force(world: World):
    await world.rule({})
    await world.rule(RETRY, version=2)
    await world.rule({**RETRY, "signals": [{"signal": "SIGNAL_IMMEDIATE_RETRY", "reward": 0.5}]}, version=3)
    await world.rule({}, version=4)
    await world.look(0)
    for version in (1, 2, 3, 4):
        for part in (0, 1):
            await world.decide(10 * version + part, turn=f"t{version}", policy_version=version)
    await world.look(100)
    assert await world.derived() == [(20, "immediate_retry", 21), (30, "immediate_retry", 31)]
    assert await world.outcomes() == [(20, 0, "derived:immediate_retry"), (30, 500_000, "derived:immediate_retry")]
    assert await query(world.url, "SELECT DISTINCT reward_rule_version, policy_version FROM events ORDER BY 1") == [
        (2, 2),
        (3, 3),
    ]


async def test_the_first_policy_of_a_rule_is_the_one_that_its_update_makes(world: World):
    await world.rule({})
    with psycopg.connect(world.url) as connection:
        connection.execute("UPDATE policy_versions SET policy_version = 40 WHERE incarnation = 1")
    await world.rule(RETRY, version=2)
    assert await query(world.url, "SELECT version, policy_version FROM reward_rules ORDER BY 1") == [(1, 1), (2, 41)]
    assert await scalar(world.url, "SELECT policy_version FROM policy_versions WHERE incarnation = 1") == 41


async def test_a_rule_that_is_given_later_begins_with_its_own_decisions(world: World):
    await world.rule({})
    await world.decide(1, turn="t")
    await world.decide(2, turn="t")
    await world.look(3)
    await world.rule(RETRY, version=2)
    await world.look(4, passes=3)
    await world.decide(5, turn="u", policy_version=2)
    await world.decide(6, turn="u", policy_version=2)
    await world.look(7)
    assert await world.derived() == [(5, "immediate_retry", 6)]


async def test_a_rule_that_cannot_be_read_holds_up_no_other_experiment(world: World):
    await world.rule({**RETRY, "ofTheFuture": 1}, incarnation=2)
    await world.rule(RETRY)
    await world.look(0)
    await world.decide(1, turn="t")
    await world.decide(2, turn="t")
    await world.look(3)
    assert await world.derived() == [(1, "immediate_retry", 2)]


# Once each, whoever derives


EVERYTHING = {
    "derived": {"retryWithin": "30s", "abandonAfter": "120s", "rephrasedSimilarity": 0.8, "rephrasedWithin": "60s"},
    "matureAfter": "200s",
    "noFeedback": 0.5,
}


def some_decisions(world: World, seed: int, count: int = 200) -> list[DecisionRow]:
    rng = random.Random(seed)
    return [
        world.decision(
            rng.randrange(1_200),
            rng.choice(["", *"abcdefgh"]),
            rng.choice(["", "t", "u", "v"]),
            arm=rng.randrange(2),
            reason=rng.choice(["sampled"] * 9 + ["forced"]),
            request_id=rng.choice(["", "", "", "r1", "r2"]),
            prompt_similarity=rng.choice([None, 0.5, 0.9]),
        )
        for _ in range(count)
    ]


async def in_one_look(world: World, rows: list[DecisionRow], now_s: float) -> list[tuple[float, str, float]]:
    """What follows, by the pure part alone."""
    log = DerivationLog(world.database, CODEC.hash_id)
    ((experiment,), _) = await log.experiments()
    sessions = {row.session_id: START_US - DAY_US // 2 for row in rows if row.session_id}
    found = await log.sessions(1, sessions, us(now_s) + 1)
    await log.close()
    signals = []
    for decisions in found.values():
        given = [session_decision(row, experiment.rules[0]) for row in decisions]
        for signal in derive_session(given, us(now_s)).signals:
            name = signal.signal.name.lower()
            signals.append(((signal.decided_at_us - START_US) / S, name, (signal.occurred_at_us - START_US) / S))
    return sorted(signals)


async def test_looking_often_finds_what_one_look_finds(world: World):
    await world.rule(EVERYTHING)
    rows = some_decisions(world, 1)
    await world.look(0)
    rng = random.Random(2)
    waiting = sorted(rows, key=lambda row: row.decided_at_us)
    for now_s in range(5, 2_000, 5):
        due = [row for row in waiting if row.decided_at_us < us(now_s)]
        waiting = waiting[len(due) :]
        if due:
            await world.decisions.store([], due)
            for row in due:
                if rng.random() < 0.2:
                    await world.send(row, now_s, rng.choice([None, 1_000_000]))
        await world.look(now_s)
    # Outcomes that were sent after a session had been abandoned do not take the signal back.
    signals = {row for row in await world.derived() if row[1] != "no_feedback"}
    expected = set(await in_one_look(world, rows, 2_000))
    assert expected <= signals
    assert all(name == "session_abandoned" for _, name, _ in signals - expected)
    assert {name for _, name, _ in expected} == {"immediate_retry", "rephrased_query", "session_abandoned"}
    without = "SELECT count(*) FROM decisions d LEFT JOIN outcomes o USING (decision_day, decision_key) WHERE {}"
    assert await scalar(world.url, without.format("o.arm IS NULL AND d.reason <> 'forced'")) == 0
    assert await scalar(world.url, without.format("o.arm IS NOT NULL AND d.reason = 'forced'")) == 0


async def everything(world: World) -> Any:
    log = "SELECT decision_key, event_id, occurred_at, reward_micros, rank, arm, status, content FROM events ORDER BY 1, 2"
    evidence = "SELECT arm, bucket, success_micros, failure_micros, n FROM evidence ORDER BY 1, 2"
    return await query(world.url, log), await query(world.url, evidence)


async def test_deriving_again_changes_nothing(world: World):
    await world.rule(EVERYTHING)
    await world.decisions.store([], some_decisions(world, 3))
    await world.look(1_500, passes=20)
    before = await everything(world)
    assert len(before[0]) > 100
    versions = await scalar(world.url, "SELECT policy_version FROM policy_versions WHERE incarnation = 1")
    await world.leader()
    await world.look(1_500, passes=20)
    await world.leader()
    await world.look(1_500, passes=20)
    assert await everything(world) == before
    assert await scalar(world.url, "SELECT policy_version FROM policy_versions WHERE incarnation = 1") == versions


async def test_two_leaders_at_once_do_no_harm(world: World):
    """The lock that makes a leader may be lost by one that does not know it yet."""
    await world.rule(EVERYTHING)
    await world.look(0)
    one, session = world.leaders[-1][0], world.session
    other = await world.leader()
    await world.decisions.store([], some_decisions(world, 4))
    for world.now_s in (100, 700, 1_500, 1_600):
        await asyncio.gather(one.work(session), other.work(world.session))
    before = await everything(world)
    await world.leader()
    await world.look(1_600, passes=20)
    assert await everything(world) == before


async def test_a_leader_that_crashed_in_the_middle_is_followed_by_one_that_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    await world.rule(EVERYTHING)
    await world.decisions.store([], some_decisions(world, 5))
    monkeypatch.setattr(derive, "_PAGE", 20)
    monkeypatch.setattr(derive, "_EVENTS", 7)
    rng = random.Random(6)
    for _ in range(8):
        deriver = await world.leader()
        apply, left = deriver._writer.apply, rng.randrange(1, 8)

        async def failing(rows, apply=apply):
            nonlocal left
            left -= 1
            if left < 0:
                raise StorageUnavailableError("killed")
            return await apply(rows)

        deriver._writer.apply = failing  # type: ignore[method-assign]
        with pytest.raises(StorageUnavailableError):
            await world.look(1_500, passes=50)
    await world.leader()
    await world.look(1_500, passes=50)
    crashed = await everything(world)
    with psycopg.connect(world.url) as connection:
        for table in ("events", "outcomes", "evidence", "pending_outcomes"):
            connection.execute(f"DELETE FROM {table}")
    await world.leader()
    await world.look(1_500, passes=50)
    assert await everything(world) == crashed


# What comes late


async def test_decisions_that_are_drained_late_are_seen(world: World):
    await world.rule({**RETRY, **SILENCE})
    await world.look(0)
    for now_s in range(10, 100, 10):
        await world.look(now_s)
    await world.decide(11, turn="t")
    await world.decide(21, turn="t")
    assert await world.derived() == []
    for now_s in range(100, 300):
        await world.look(now_s)
    assert await world.derived() == [(11, "immediate_retry", 21), (21, "no_feedback", 81)]
    assert await scalar(world.url, "SELECT sum(n) FROM evidence") == 2


async def test_a_late_decision_is_seen_within_about_as_long_as_it_was_late(world: World):
    """Comparisons with the log go 15 s back every other time, 30 s every fourth, and so on."""
    await world.rule(RETRY)
    await world.look(0)
    for now_s in range(0, 3_600, 30):
        await world.look(now_s)
    for late_s in (60, 600):
        at_s = world.now_s - late_s
        await world.decide(at_s, f"late {late_s}", "t")
        await world.decide(at_s + 1, f"late {late_s}", "t")
        waited = 0
        while not any(decided == at_s for decided, _, _ in await world.derived()):
            await world.look(world.now_s + 1)
            waited += 1
            assert waited <= max(20, late_s), f"{late_s} s late and not seen after {waited} s"


async def test_a_new_leader_goes_over_the_past_as_far_as_events_count(world: World):
    await world.rule({**RETRY, "attributionWindow": "86400s"})
    for back_h in (0.01, 5, 20, 30):
        for part in (0, 1):
            await world.decide(-back_h * 3_600 + part, f"{back_h}", "t")
    await world.look(0, passes=6)
    assert [round(-decided / 3_600, 2) for decided, _, _ in await world.derived()] == [20, 5, 0.01]


async def test_it_waits_for_the_log_to_settle(world: World):
    await world.rule(RETRY)
    await world.leader(settle_s=2)
    await world.look(0)
    await world.decide(1, turn="t")
    await world.decide(2, turn="t")
    await world.look(3)
    assert await world.derived() == []
    await world.look(4.5)
    assert await world.derived() == [(1, "immediate_retry", 2)]


async def test_silence_counts_within_its_units_share(world: World):
    await world.rule({**SILENCE, "unitShare": 2})
    await world.look(0)
    for n in range(5):
        await world.decide(1 + n)
        await world.decide(1.5 + n, unit_id="")
    await world.look(100, passes=2)
    own = [(1 + n, 250_000, "derived:no_feedback") for n in range(2)]
    assert [row for row in await world.outcomes() if row[0] == int(row[0])] == own
    assert len(await world.outcomes()) == 2 + 5, "decisions without a unit have no limit"
    assert await scalar(world.url, "SELECT count(*) FROM events WHERE status = 'limited'") == 3
    await world.look(200, passes=2)
    assert await scalar(world.url, "SELECT sum(n)::int FROM evidence") == 7
    assert await query(world.url, "SELECT unit_hash, n FROM unit_shares") == [(number_of(CODEC.hash_id("u")), 2)]
    await assert_replay_agrees(world.url)


@pytest.mark.parametrize(
    ("rule", "counts"), [({"unitShare": 2}, 2), ({"evidenceUnit": "EVIDENCE_UNIT_UNIT"}, 1)], ids=["share", "once"]
)
@pytest.mark.parametrize("after_s", [0, 61.5, 100], ids=["none", "one", "all"])
async def test_silence_counts_no_more_for_having_been_forgotten(
    world: World, rule: dict[str, Any], counts: int, after_s: float
):
    """A unit is forgotten when none, one or all of its outcomes have counted: the sum is that of a unit that was not."""
    await query(world.url, "INSERT INTO token_keys (key_id, secret) VALUES (1, %s)", bytes(32))
    await world.rule({**SILENCE, **rule})
    await world.look(0)
    for unit in ("kept", "gone"):
        for n in range(8):
            await world.decide(1 + n, session="", unit_id=unit)
    await world.look(after_s, passes=2)

    def forget() -> Forgotten:
        with connect(DatabaseUrl.parse(world.url)) as connection:
            return erase(connection, Trace(connection, "gone", None), "an operator", "a request")

    assert (await asyncio.to_thread(forget)).erased.decisions == 8
    await world.look(200, passes=2)
    counted = (
        "SELECT d.unit_id = 'kept', count(*) FROM outcomes JOIN decisions d USING (decision_day, decision_key)"
        " GROUP BY 1 ORDER BY 1"
    )
    assert await query(world.url, counted) == [(False, counts), (True, counts)]
    assert await scalar(world.url, "SELECT sum(n)::int FROM evidence") == 2 * counts
    own = number_of(CODEC.hash_id("gone"))
    assert await scalar(world.url, "SELECT count(*) FROM unit_shares WHERE unit_hash = %s", own) == 0


async def test_a_decision_that_was_answered_beyond_the_share_was_not_abandoned(world: World):
    await world.rule({**ABANDON, "unitShare": 1})
    await world.look(0)
    for n, session in enumerate(("first", "second")):
        decision = await world.decide(1 + n, session)
        await world.send(decision, 10 + n, unit_hash=number_of(CODEC.hash_id("u")), share=1)
    assert await query(world.url, "SELECT status FROM events ORDER BY decided_at") == [("applied",), ("limited",)]
    await world.look(5_000, passes=3)
    assert await world.derived() == []


async def test_pages(world: World, monkeypatch: pytest.MonkeyPatch):
    """Several decisions have the time of the one that a page ends with; a pass leaves the rest to the next one."""
    monkeypatch.setattr(derive, "_PAGE", 3)
    monkeypatch.setattr(derive, "_PAGES", 2)
    await world.rule({**SILENCE, "derived": {"retryWithin": "30s", "abandonAfter": "600s"}})
    await world.look(0)
    rows = [world.decision(1 + n // 4, f"s{n}" if n % 2 else "", "t") for n in range(60)]
    await world.decisions.store([], rows)
    counted = "SELECT coalesce(sum(n), 0)::int FROM evidence"
    early = (
        "SELECT count(*) FROM decisions d JOIN policy_versions v USING (incarnation) LEFT JOIN outcomes o"
        " USING (decision_day, decision_key) WHERE o.arm IS NULL AND d.decided_at <= v.matured_to"
    )
    steps = []
    while not steps or steps[-1] < 60:
        await world.look(5_000)
        steps.append(await scalar(world.url, counted))
        assert await scalar(world.url, early) == 0, "what follows from silence is there before it counts"
    assert 5 < len(steps) < 20
    assert len(await world.outcomes()) == 60


async def test_a_session_id_that_everybody_shares_is_bounded(world: World):
    await world.rule(RETRY)
    await world.look(0)
    rows = [world.decision(1 + n / 1_000, "anonymous", f"t{n // 2}") for n in range(1_500)]
    await world.decisions.store([], rows)
    await world.look(10)
    assert len(await world.derived()) >= 490, "of the last thousand"


# Maturing


async def test_what_follows_from_silence_is_there_before_it_counts(world: World):
    """With a default rule: outcomes mature when sessions have been abandoned."""
    await world.rule({"derived": {"abandonAfter": "60s"}})
    await world.look(0)
    await world.decide(1, "gone")
    await world.send(await world.decide(2, "thanked"), 3)
    await world.look(60)
    assert await scalar(world.url, "SELECT coalesce(sum(n), 0) FROM evidence") == 0
    await world.look(61)
    assert await query(world.url, "SELECT success_micros, failure_micros FROM evidence") == [(0, 1_000_000)]
    await world.look(62)
    assert await query(world.url, "SELECT success_micros, failure_micros FROM evidence") == [(1_000_000, 1_000_000)]
    assert world.moved == [1, 1]


async def test_a_new_leader_derives_what_matured_meanwhile_before_it_counts_it(world: World):
    await world.rule({"derived": {"abandonAfter": "60s"}})
    await world.look(0)
    gone = [world.decision(1 + n, f"s{n}") for n in range(40)]
    await world.decisions.store([], gone)
    await world.leader()
    await world.look(2_000)
    assert await query(world.url, "SELECT success_micros, failure_micros, n FROM evidence") == [(0, 40_000_000, 40)]
    assert await scalar(world.url, "SELECT count(*) FROM outcomes WHERE decided_at IS NOT NULL") == 40, "all had to wait"


async def test_maturing_begins_and_ends_with_the_rule(world: World):
    await world.rule({})
    await world.look(0)
    await world.send(await world.decide(1), 2)
    await world.rule({"matureAfter": "60s"}, version=2)
    await world.look(5)
    assert await scalar(world.url, "SELECT matured_to IS NOT NULL FROM policy_versions WHERE incarnation = 1")
    await world.send(await world.decide(6, policy_version=2), 7)
    await world.look(65)
    assert await scalar(world.url, "SELECT sum(n) FROM evidence") == 1
    await world.look(66)
    assert await scalar(world.url, "SELECT sum(n) FROM evidence") == 2
    await world.send(await world.decide(100, policy_version=2), 101)
    await world.rule({"matureAfter": "0s"}, version=3)
    await world.look(102)
    assert await scalar(world.url, "SELECT sum(n) FROM evidence") == 3
    assert await scalar(world.url, "SELECT matured_to FROM policy_versions WHERE incarnation = 1") is None


async def test_two_arms_where_failures_come_first(world: World):
    """The bias of delays, on a real log: the better arm's successes take minutes, its failures seconds."""
    await world.rule({"matureAfter": "600s"})
    await world.rule({}, incarnation=2)
    await world.look(0)
    rng = random.Random(11)
    later = []
    for n in range(200):
        arm = n % 2
        succeeded = rng.random() < (0.7 if arm == 0 else 0.5)
        reply_s = n + (2 if not succeeded else 500 if arm == 0 else 60)
        for incarnation in (1, 2):
            decision = await world.decide(n, f"s{n}", arm=arm, incarnation=incarnation)
            later.append((reply_s, decision, 1_000_000 if succeeded else 0))
    means = {}
    for reply_s, decision, reward in sorted(later, key=lambda event: event[0]):
        if reply_s > 300 and not means:
            await world.look(300)
            means[300] = await shares(world)
        await world.send(decision, reply_s, reward, status=EventStatus.APPLIED)
    await world.look(1_000)
    means[1_000] = await shares(world)
    assert means[300][2, 0] < 0.05 < 0.4 < means[300][2, 1], "naive: the better arm looks hopeless"
    assert not [key for key in means[300] if key[0] == 1], "maturing: nothing is believed yet"
    assert means[1_000][1, 0] == means[1_000][2, 0] > means[1_000][1, 1] == means[1_000][2, 1]


async def shares(world: World) -> dict[tuple[int, int], float]:
    rows = await query(
        world.url,
        "SELECT incarnation, arm, sum(success_micros) / sum(n) / 1e6 FROM evidence GROUP BY 1, 2 HAVING sum(n) > 0",
    )
    return {(incarnation, arm): float(mean) for incarnation, arm, mean in rows}


def test_lengths_are_as_the_rule_gives_them():
    assert derive.microseconds(timedelta(minutes=5)) == 300_000_000
