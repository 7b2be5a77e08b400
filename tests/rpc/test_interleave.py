"""Turns that are assigned by draft, and the interleaving of lists, on real servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from running import Router, StoppableCluster, arm, experiment, query, refused, scalar, until, until_scalar

from bandit.crossover import first_turn_estimate, paired_difference, randomisation_test
from bandit.interleave import sign_test
from bandit.turns import Turns, turn_arm
from router.v1 import experiments_pb2, interleave_pb2, routing_pb2, types_pb2

SAMPLED, FORCED, FALLBACK = routing_pb2.REASON_SAMPLED, routing_pb2.REASON_FORCED, routing_pb2.REASON_FALLBACK
RETRY, ABANDONED, COMPLETED = (
    types_pb2.SIGNAL_IMMEDIATE_RETRY,
    types_pb2.SIGNAL_SESSION_ABANDONED,
    types_pb2.SIGNAL_TASK_COMPLETED,
)


def taking_turns(arms: Iterable[str | types_pb2.Arm] = ("a", "b", "c"), **fields: object) -> experiments_pb2.Experiment:
    return experiment(arms=arms, kind="UNIFORM", assignment="INTERLEAVED", **fields)  # type: ignore[arg-type]


def with_control() -> experiments_pb2.Experiment:
    return taking_turns(["a", arm("b", role=types_pb2.ROLE_CONTROL)])


# Turns


async def test_each_turn_has_the_arm_of_its_sessions_draft(router: Router, other_router: Router):
    await router.run(taking_turns())
    for session in ("s-1", "s-2"):
        for turn in range(7):
            reply = await router.route(session_id=session, turn_id=str(turn))
            assert reply.arm.arm_id == "abc"[turn_arm("support", session, turn, "abc")]
            assert (reply.reason, reply.propensity) == (SAMPLED, 1 / 3)
            assert [entry.probability for entry in reply.allocation] == [1 / 3] * 3
    reply = await other_router.route(session_id="s-2", turn_id="6")
    assert reply.arm.arm_id == "abc"[turn_arm("support", "s-2", 6, "abc")], "a retried turn, on another replica"


async def test_every_block_has_every_arm_once(router: Router):
    await router.run(taking_turns())
    for block in range(5):
        replies = [await router.route(session_id="s", turn_id=str(3 * block + place)) for place in range(3)]
        assert {reply.arm.arm_id for reply in replies} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"turn_id": "0"}, ["session_id"]),
        ({"session_id": "s"}, ["turn_id"]),
        ({}, ["session_id", "turn_id"]),
        *(
            ({"session_id": "s", "turn_id": bad}, ["turn_id"])
            for bad in ("-1", "1.0", "01", " 1", "1\u0660", "one", "2147483648", "9" * 200)
        ),
    ],
)
async def test_a_draft_needs_a_session_and_the_number_of_the_turn(router: Router, fields, named):
    await router.run(taking_turns())
    refusal = await refused(router.route(**fields))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert list(refusal.violations) == named
    for name, rule in {"session_id": "is required", "turn_id": "from 0 to 2147483647"}.items():
        assert name not in named or rule in refusal.violations[name]
    assert (await router.route(session_id="s", turn_id="2147483647")).reason == SAMPLED
    assert (await router.route(force_arm_id="b")).reason == FORCED, "which is no turn of the draft"


async def test_an_arm_that_is_not_eligible_is_replaced_by_one_that_is(router: Router):
    await router.run(taking_turns())
    arms: Counter[tuple[str, int]] = Counter()
    for turn in range(300):
        reply = await router.route(session_id="s", turn_id=str(turn), eligible_arm_ids=["a", "c"])
        drafted = "abc"[turn_arm("support", "s", turn, "abc")]
        assert (reply.reason == FALLBACK) == (drafted == "b")
        assert reply.propensity == 0.5, "drafted a third of the time, and half of another third"
        if drafted != "b":
            assert reply.arm.arm_id == drafted
        arms[reply.arm.arm_id, reply.reason] += 1
        again = await router.route(session_id="s", turn_id=str(turn), eligible_arm_ids=["a", "c"])
        assert again.arm.arm_id == reply.arm.arm_id, "a retried turn is the same arm"
    assert arms["a", FALLBACK] + arms["c", FALLBACK] == 100
    assert min(arms["a", FALLBACK], arms["c", FALLBACK]) > 25, "each is 50 ± 5"


# Lists


def rankings(**lists: str | Sequence[str]) -> list[interleave_pb2.Ranking]:
    return [interleave_pb2.Ranking(arm_id=arm_id, item_ids=list(items)) for arm_id, items in lists.items()]


async def interleave(router: Router, lists: Sequence[interleave_pb2.Ranking], **fields) -> interleave_pb2.InterleaveResponse:
    request = interleave_pb2.InterleaveRequest(experiment_id="support", rankings=lists, **fields)
    return await router.interleaving.Interleave(request)


async def credit(router: Router, interleaving_id: str, *positions: int, **fields) -> dict[str, int]:
    request = interleave_pb2.CreditRequest(interleaving_id=interleaving_id, positions=positions, **fields)
    return {c.arm_id: c.credit for c in (await router.interleaving.Credit(request)).credits}


async def preferences(router: Router) -> interleave_pb2.GetPreferencesResponse:
    return await router.interleaving.GetPreferences(interleave_pb2.GetPreferencesRequest(experiment_id="support"))


def owned(reply: interleave_pb2.InterleaveResponse, arm_id: str) -> list[int]:
    """The positions of an arm."""
    return [i for i, item in enumerate(reply.items) if item.arm_id == arm_id]


def shown(reply: interleave_pb2.InterleaveResponse) -> tuple[str, str]:
    return "".join(item.item_id for item in reply.items), "".join(item.arm_id for item in reply.items)


async def test_the_lists_and_credits_of_the_table_worked_out_by_hand(router: Router):
    """Two rounds of x y z w against x z w y: four lists. docs/interleaving.md has the table."""
    await router.run()
    by_hand = {("xzyw", "abab"), ("xzwy", "abba"), ("xyzw", "baab"), ("xyzw", "baba")}
    seen: dict[tuple[str, str], str] = {}
    for number in count():
        reply = await interleave(router, rankings(a="xyzw", b="xzwy"))
        assert shown(reply) in by_hand
        seen.setdefault(shown(reply), reply.interleaving_id)
        if len(seen) == 4:
            break
        assert number < 200, "each of the four has probability 1/4: a right program fails once in 1e24"
    totals: Counter[tuple[str, str]] = Counter()
    for (items, teams), interleaving_id in seen.items():
        so_far: Counter[str] = Counter()
        for item in "xyzw":
            position = items.index(item)
            so_far[teams[position]] += 1
            totals[item, teams[position]] += 1
            assert await credit(router, interleaving_id, position) == dict(so_far)
    expected = {"xa": 2, "xb": 2, "ya": 4, "yb": 0, "za": 1, "zb": 3, "wa": 1, "wb": 3}
    assert {item + team: totals[item, team] for item in "xyzw" for team in "ab"} == expected


async def test_a_request_id_gives_the_same_list_everywhere(router: Router, other_router: Router):
    await router.run()
    lists = rankings(a=[f"i{n}" for n in range(30)], b=[f"i{n}" for n in range(29, -1, -1)])
    first = await interleave(router, lists, request_id="r", unit_id="u")
    assert len(first.items) == 10, "by default"
    assert await interleave(router, lists, request_id="r", unit_id="u") == first
    assert await interleave(other_router, lists, request_id="r", unit_id="u") == first
    assert await scalar(router.url, "SELECT count(*) FROM interleavings") == 1
    others = [
        await interleave(router, lists, request_id="r2", unit_id="u"),
        await interleave(router, lists, request_id="r", unit_id="u2"),
        await interleave(router, lists, request_id="r", unit_id="u", length=20),
        await interleave(router, lists[::-1], request_id="r", unit_id="u"),
    ]
    assert len({first.interleaving_id, *(other.interleaving_id for other in others)}) == 5
    assert len(others[2].items) == 20


async def test_a_changed_ranking_never_credits_the_list_that_was_shown_before(router: Router):
    await router.run()
    first = await interleave(router, rankings(a="xyzw", b="wzyx"), request_id="r", unit_id="u")
    second = await interleave(router, rankings(a="wzyx", b="xyzw"), request_id="r", unit_id="u")
    for reply in (first, second):
        for position, item in enumerate(reply.items):
            before = await credit(router, reply.interleaving_id, 0)
            after = await credit(router, reply.interleaving_id, position)
            if position:
                assert after[item.arm_id] == before.get(item.arm_id, 0) + 1


async def test_what_is_stored(router: Router):
    await router.run(experiment(arms=("a", "b", "c")))
    reply = await interleave(router, rankings(c="xy", a="zxy"), unit_id="ü", length=3)
    ((unit_id, arms, items, teams, even),) = await query(
        router.url, "SELECT unit_id, arms, item_ids, teams, even FROM interleavings"
    )
    assert (unit_id, arms, even) == ("ü", [2, 0], 2)
    assert items == [item.item_id for item in reply.items]
    assert ["ca"[team] for team in teams] == [item.arm_id for item in reply.items]


async def test_what_an_interleaving_asks_of_its_request(router: Router):
    await router.run()
    await router.create(experiment("draft"))

    async def refusal(lists: Sequence[interleave_pb2.Ranking], **fields):
        return await refused(interleave(router, lists, **fields))

    found = await refusal(rankings(a="x", z="x"))
    assert (found.reason, found.metadata["arm_id"]) == ("ARM_NOT_FOUND", "z")
    assert "rankings[1].arm_id" in found.message
    found = await refusal([*rankings(a="x"), *rankings(a="y")])
    assert list(found.violations) == ["rankings[1].arm_id"]
    assert list((await refusal(rankings(a="x"))).violations) == ["rankings"]
    assert list((await refusal(rankings(a="xx", b="x"))).violations) == ["rankings[0].item_ids"]
    assert list((await refusal(rankings(a=["x\x00"], b="x"))).violations) == ["rankings[0].item_ids[0]"]
    assert list((await refusal(rankings(a="x", b="y"), length=201)).violations) == ["length"]
    draft = interleave_pb2.InterleaveRequest(experiment_id="draft", rankings=rankings(a="x", b="y"))
    found = await refused(router.interleaving.Interleave(draft))
    assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EXPERIMENT_NOT_RUNNING")
    draft.experiment_id = "none"
    assert (await refused(router.interleaving.Interleave(draft))).code == grpc.StatusCode.NOT_FOUND
    assert await scalar(router.url, "SELECT count(*) FROM interleavings") == 0


async def test_credit_counts_each_position_once_and_takes_all_or_none(router: Router):
    await router.run()
    reply = await interleave(router, rankings(a="xyzw", b="wzyx"))
    (first, *_), (other, *_) = owned(reply, "a"), owned(reply, "b")
    found = await refused(credit(router, reply.interleaving_id, first, 4))
    assert (found.code, list(found.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["positions[1]"])
    assert "the positions 0 to 3" in found.violations["positions[1]"]
    assert list((await refused(credit(router, reply.interleaving_id, -1))).violations) == ["positions[0]"]
    assert await scalar(router.url, "SELECT count(*) FROM interleaving_credits") == 0, "the position beside it neither"
    assert await credit(router, reply.interleaving_id, first, first) == {"a": 1}
    assert await credit(router, reply.interleaving_id, first) == {"a": 1}
    assert await credit(router, reply.interleaving_id, other, first) == {"a": 1, "b": 1}


async def test_credits_at_the_same_time_count_once(router: Router, other_router: Router):
    await router.run()
    reply = await interleave(router, rankings(a="xyzw", b="wzyx"))
    calls = [credit(r, reply.interleaving_id, 3, 0, 2, 1) for r in (router, other_router) for _ in range(10)]
    await asyncio.gather(*calls, *(credit(router, reply.interleaving_id, 0, 1, 2, 3) for _ in range(10)))
    assert await credit(router, reply.interleaving_id, 0) == {"a": 2, "b": 2}
    assert await scalar(router.url, "SELECT count(*) FROM interleaving_credits") == 4


async def test_positions_that_not_every_arm_could_have_credit_nobody(router: Router):
    await router.run()
    reply = await interleave(router, rankings(a="x", b="yzw"))
    assert await credit(router, reply.interleaving_id, 1, 2, 3) == {}
    assert await credit(router, reply.interleaving_id, 0) == {reply.items[0].arm_id: 1}
    assert await scalar(router.url, "SELECT count(*) FROM interleaving_credits") == 4, "they are kept all the same"


async def test_when_an_item_was_taken_is_between_the_list_and_the_report(router: Router):
    await router.run()
    reply = await interleave(router, rankings(a="xyzw", b="wzyx"))
    request = interleave_pb2.CreditRequest(interleaving_id=reply.interleaving_id, positions=[0])
    request.occurred_at.FromSeconds(5)
    await router.interleaving.Credit(request)
    assert await scalar(
        router.url,
        "SELECT c.occurred_at = i.interleaved_at AND c.received_at > i.interleaved_at"
        " FROM interleaving_credits c JOIN interleavings i USING (interleaving_key)",
    )
    request.occurred_at.seconds = 2**60
    assert list((await refused(router.interleaving.Credit(request))).violations) == ["occurred_at"]


async def test_neither_kind_of_id_passes_for_the_other(router: Router):
    await router.run()
    decision = await router.route()
    reply = await interleave(router, rankings(a="x", b="y"))
    found = await refused(credit(router, decision.decision_id, 0))
    assert (found.reason, list(found.violations)) == ("DECISION_ID_MALFORMED", ["interleaving_id"])
    found = await refused(router.reward(reply.interleaving_id, 1.0))
    assert (found.reason, list(found.violations)) == ("DECISION_ID_MALFORMED", ["decision_id"])
    tampered = reply.interleaving_id[:20] + ("A" if reply.interleaving_id[20] != "A" else "B") + reply.interleaving_id[21:]
    found = await refused(credit(router, tampered, 0))
    assert (found.reason, list(found.violations)) == ("DECISION_ID_TAMPERED", ["interleaving_id"])


async def test_an_id_of_another_deployment_is_refused(router: Router, stoppable_url: str, start_router):
    other = await start_router(stoppable_url)
    await other.run()
    await router.run()
    reply = await interleave(other, rankings(a="x", b="y"))
    found = await refused(credit(router, reply.interleaving_id, 0))
    assert (found.reason, list(found.violations)) == ("DECISION_ID_FOREIGN", ["interleaving_id"])


async def test_without_postgres_nothing_is_shown(start_router, stoppable: StoppableCluster, stoppable_url: str):
    router = await start_router(stoppable_url)
    await router.run()
    await router.route()
    reply = await interleave(router, rankings(a="x", b="y"))
    stoppable.stop()
    for call in (interleave(router, rankings(a="x", b="y")), credit(router, reply.interleaving_id, 0)):
        found = await refused(call)
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert found.retry_after_s == 1.0
    stoppable.start()

    async def credited() -> bool:
        try:
            return bool(await credit(router, reply.interleaving_id, 0))
        except grpc.aio.AioRpcError:
            return False

    await until(credited, "it is credited once Postgres is back")


# Preferences


async def test_preferences_worked_out_by_hand(router: Router):
    """Units: u1 (1, 2) in two lists, u2 (1, 0), u3 (1, 1), and two lists of nobody, (2, 0) and none."""
    await router.run()
    lists = rankings(a="xyzw", b="wzyx")
    for unit, of_a, of_b in (("u1", 1, 0), ("u1", 0, 2), ("u2", 1, 0), ("u3", 1, 1), ("", 2, 0), ("", 0, 0)):
        reply = await interleave(router, lists, unit_id=unit)
        positions = owned(reply, "a")[:of_a] + owned(reply, "b")[:of_b]
        if positions:
            await credit(router, reply.interleaving_id, *positions)
    found = await preferences(router)
    assert (found.experiment_id, found.interleavings, found.credited) == ("support", 6, 5)
    (pair,) = found.preferences
    assert (pair.arm_id, pair.other_arm_id, pair.version, pair.other_version) == ("a", "b", 1, 1)
    assert (pair.wins, pair.losses, pair.ties) == (2, 1, 2)
    assert pair.win_rate == 2 / 3
    assert pair.p_value == 1.0, "of three tosses, one or two are heads 3/4 of the time: min(1, 2 * 1/2)"
    test = sign_test(2, 1, 2)
    assert (pair.lower, pair.upper) == (test.lower, test.upper)


async def test_pairs_are_those_that_shared_a_list(router: Router):
    await router.run(experiment(arms=("a", "b", "c")))
    reply = await interleave(router, rankings(a="xy", b="yx"))
    await credit(router, reply.interleaving_id, owned(reply, "b")[0])
    reply = await interleave(router, rankings(c="xyz", b="yzx"))
    await credit(router, reply.interleaving_id, owned(reply, "c")[0])
    found = (await preferences(router)).preferences
    assert [(p.arm_id, p.other_arm_id, p.wins, p.losses, p.ties) for p in found] == [
        ("a", "b", 0, 1, 0),
        ("b", "c", 0, 1, 0),
    ]
    reply = await interleave(router, rankings(a="x", b="y", c="z"))
    found = (await preferences(router)).preferences
    assert [(p.arm_id, p.other_arm_id, p.ties) for p in found] == [("a", "b", 1), ("a", "c", 1), ("b", "c", 1)]
    assert not found[1].HasField("win_rate")


async def test_positions_that_not_every_arm_could_have_make_no_preference(router: Router):
    await router.run()
    reply = await interleave(router, rankings(a="x", b="yzw"))
    await credit(router, reply.interleaving_id, 1, 2, 3)
    found = await preferences(router)
    assert (found.interleavings, found.credited) == (1, 0)
    assert [(p.wins, p.losses, p.ties) for p in found.preferences] == [(0, 0, 1)]


async def test_versions_of_an_arm_are_compared_by_themselves(router: Router):
    await router.run()
    reply = await interleave(router, rankings(a="x", b="y"))
    await credit(router, reply.interleaving_id, 0)
    await router.update(experiment(arms=[arm("a", model="another"), "b"]))
    await interleave(router, rankings(a="x", b="y"))
    found = (await preferences(router)).preferences
    assert sorted((p.arm_id, p.version, p.other_arm_id, p.other_version, p.wins + p.losses) for p in found) == [
        ("a", 1, "b", 1, 1),
        ("b", 1, "a", 2, 0),
    ]


async def test_preferences_of_nothing(router: Router):
    await router.create(experiment())
    found = await preferences(router)
    assert (found.interleavings, found.credited, list(found.preferences)) == (0, 0, [])
    unknown = interleave_pb2.GetPreferencesRequest(experiment_id="none")
    assert (await refused(router.interleaving.GetPreferences(unknown))).code == grpc.StatusCode.NOT_FOUND


# Comparing turns


async def compare(router: Router, arm_id: str = "a", other: str = "") -> interleave_pb2.CompareTurnsResponse:
    request = interleave_pb2.CompareTurnsRequest(experiment_id="support", arm_id=arm_id, other_arm_id=other)
    return await router.interleaving.CompareTurns(request)


async def session(router: Router, session_id: str, bad: str, **fields: object) -> None:
    """A session of one block; the arms in `bad` answer badly, and the last turn ends it for good or bad."""
    for turn in range(2):
        reply = await router.route(session_id=session_id, turn_id=str(turn), **fields)
        if reply.arm.arm_id in bad:
            await router.reward(reply.decision_id, signal=RETRY if turn == 0 else ABANDONED)
        elif turn == 1:
            await router.reward(reply.decision_id, signal=COMPLETED)


async def test_turns_worked_out_by_hand(router: Router):
    """Blocks with a - b = 1, 0, 0, 1: mean 1/2, errors of 1/2 each, so the variance is 4/3 · 1 / 16."""
    await router.run(with_control())
    for session_id, bad in (("s0", "a"), ("s1", ""), ("s2", "ab"), ("s3", "a")):
        await session(router, session_id, bad)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 8)
    found = await compare(router)
    assert found.paired.estimate == 0.5
    assert found.paired.stderr == pytest.approx((4 / 3 / 16) ** 0.5, rel=1e-12)
    half = 3.182446305284263 * (4 / 3 / 16) ** 0.5  # t of 3 degrees of freedom, .975
    assert (found.paired.lower, found.paired.upper) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-9)
    assert found.paired.sessions == 4
    assert found.p_value == 0.5, "both signs of the two differences agree half of the time"
    assert found.excluded_turns == 0
    swapped = await compare(router, "b", "a")
    assert (swapped.paired.estimate, swapped.p_value) == (-0.5, 0.5)


async def test_turns_agree_with_the_analysis_of_what_was_sent(router: Router):
    """Sixty sessions of up to five turns of three arms, some of which end without a word."""
    await router.run(taking_turns(["a", "b", arm("c", role=types_pb2.ROLE_CONTROL)]))
    rows, decisions = [], 0
    for number in range(60):
        turns = 2 + number % 4
        for turn in range(turns):
            reply = await router.route(session_id=f"s-{number}", turn_id=str(turn))
            decisions += 1
            bad = (number * 7 + turn * 3 + "abc".index(reply.arm.arm_id)) % 3 == 0
            if bad:
                await router.reward(reply.decision_id, signal=types_pb2.SIGNAL_REPHRASED_QUERY)
            rows.append((number, turn, "abc".index(reply.arm.arm_id), float(bad), bad or turn < turns - 1))
    await until_scalar(router.url, "SELECT count(*) FROM decisions", decisions)
    found = await compare(router)
    turns_of = Turns.of(3, *(list(column) for column in zip(*rows, strict=True)))
    paired, first = paired_difference(turns_of, 0, 2), first_turn_estimate(turns_of, 0, 2)
    for message, expected in ((found.paired, paired), (found.first_turn, first)):
        assert message.estimate == pytest.approx(expected.estimate, abs=1e-12)
        assert message.stderr == pytest.approx(expected.stderr, rel=1e-12)
        assert (message.lower, message.upper) == pytest.approx((expected.lower, expected.upper), rel=1e-12)
        assert message.sessions == expected.n_sessions
    assert found.p_value == pytest.approx(randomisation_test(turns_of, 0, 2, None), rel=1e-9)  # type: ignore[arg-type]


async def test_blocks_that_do_not_follow_the_draft_are_left_out(router: Router):
    await router.run(with_control())
    for session_id, bad in (("s0", "a"), ("s1", ""), ("s2", "ab"), ("s3", "a")):
        await session(router, session_id, bad)
    plain = await compare_of(router, 8)
    await session(router, "forced", "a", force_arm_id="a")
    await session(router, "restricted", "a", eligible_arm_ids=["a"])
    first = await router.route(session_id="part", turn_id="0")
    await router.reward(first.decision_id, signal=RETRY)
    await router.route(session_id="part", turn_id="1", force_arm_id=first.arm.arm_id)
    found = await compare_of(router, 14)
    assert found.paired == plain.paired
    assert found.p_value == plain.p_value
    assert found.excluded_turns == 6
    assert found.first_turn.sessions == plain.first_turn.sessions + 1, "the first turn before the forced one was dealt"


async def compare_of(router: Router, decisions: int) -> interleave_pb2.CompareTurnsResponse:
    await until_scalar(router.url, "SELECT count(*) FROM decisions", decisions)
    return await compare(router)


async def test_a_turn_that_was_answered_twice_is_one_turn(router: Router):
    """The user retried, and got the same arm: that is what the comparison is about, not a fault of the design."""
    await router.run(with_control())
    for session_id, bad in (("s0", "a"), ("s1", ""), ("s2", "ab"), ("s3", "a")):
        await session(router, session_id, bad)
    plain = await compare_of(router, 8)
    again = [await router.route(session_id="s1", turn_id=turn) for turn in ("0", "0", "1")]
    assert await compare_of(router, 11) == plain
    of_a = next(reply for reply in again if reply.arm.arm_id == "a")
    await router.reward(of_a.decision_id, signal=RETRY)
    assert (await compare(router)).paired.estimate == 0.75, "s1 has a - b = 1 now"
    await router.route(session_id="s1", turn_id="0", force_arm_id="a")
    await router.route(session_id="s1", turn_id="0", force_arm_id="b")
    found = await compare_of(router, 13)
    assert (found.paired.sessions, found.excluded_turns) == (3, 2), "two arms for one turn say nothing of either"


async def test_turns_dealt_to_other_arms_are_left_out(router: Router):
    await router.run(taking_turns(["a", arm("b", role=types_pb2.ROLE_CONTROL), "c"]))
    for turn in range(6):
        await router.route(session_id="old", turn_id=str(turn))
    await router.update(with_control())
    for session_id, bad in (("s0", "a"), ("s1", ""), ("s2", "ab"), ("s3", "a")):
        await session(router, session_id, bad)
    found = await compare_of(router, 14)
    assert (found.paired.estimate, found.paired.sessions, found.excluded_turns) == (0.5, 4, 6)


async def test_turns_from_before_they_were_dealt_count_if_they_might_have_been(router: Router):
    """Drawn one by one they are as random, but an arm may come twice, or answer a turn that another one answered."""
    definition = with_control()
    definition.assignment.kind = experiments_pb2.AssignmentRule.KIND_PER_REQUEST
    await router.run(definition)
    arms = []
    for number in range(24):
        replies = [await router.route(session_id=f"s-{number}", turn_id=str(turn)) for turn in range(2)]
        arms.append([reply.arm.arm_id for reply in replies])
        for reply in replies:
            await router.reward(reply.decision_id, signal=RETRY if reply.arm.arm_id == "a" else COMPLETED)
    same = sum(first == second for first, second in arms)
    assert 0 < same < 24
    answered: set[str] = set()
    routed = 48
    while len(answered) < 2:
        answered.add((await router.route(session_id="both", turn_id="0")).arm.arm_id)
        routed += 1
    await until_scalar(router.url, "SELECT count(*) FROM decisions", routed)
    await router.update(with_control())
    found = await compare(router)
    assert (found.excluded_turns, found.paired.sessions) == (2 * same + 1, 24 - same)
    assert found.paired.estimate == 1.0


async def test_too_few_turns_have_no_estimate(router: Router):
    await router.run(with_control())
    for expected in (0, 2):
        found = await compare_of(router, expected)
        assert not found.paired.HasField("estimate")
        assert not found.first_turn.HasField("estimate")
        assert (found.p_value, found.excluded_turns) == (1.0, 0)
        await session(router, "s", "")


async def test_what_a_comparison_asks_of_its_request(router: Router):
    await router.run(with_control())
    found = await refused(compare(router, "z"))
    assert (found.code, found.reason, found.metadata["arm_id"]) == (grpc.StatusCode.INVALID_ARGUMENT, "ARM_NOT_FOUND", "z")
    assert found.message.startswith("arm_id: ")
    assert (await refused(compare(router, "a", "z"))).message.startswith("other_arm_id: ")
    assert list((await refused(compare(router, "b"))).violations) == ["other_arm_id"], "the control with itself"
    await router.update(taking_turns(["a", "b"]))
    found = await refused(compare(router))
    assert (found.code, list(found.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["other_arm_id"])
    await router.update(experiment())
    found = await refused(compare(router, "a", "b"))
    assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_INTERLEAVED")
    unknown = interleave_pb2.CompareTurnsRequest(experiment_id="none", arm_id="a")
    assert (await refused(router.interleaving.CompareTurns(unknown))).code == grpc.StatusCode.NOT_FOUND


# The service


async def test_the_service_is_listed_and_healthy(router: Router):
    name = "router.v1.InterleaveService"
    health = health_pb2_grpc.HealthStub(router.channel)
    reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(router.channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    async for listed in stub.ServerReflectionInfo(requests):
        assert name in [service.name for service in listed.list_services_response.service]
        break
