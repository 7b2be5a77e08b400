"""JudgeService on real servers: samples, orders, idempotence, refusals, and reports worked out by hand."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import Counter

import grpc
import pytest
from comparisons import (
    CHALLENGER,
    CONTROL,
    Pair,
    add_comparisons,
    all_pending,
    answer,
    create,
    judge_all,
    judged_experiment,
    pairs,
    report_of,
    run_of,
    stub,
)
from google.protobuf.duration_pb2 import Duration
from running import Router, arm, query, refused, scalar, until
from scipy.stats import binomtest

from router.v1 import experiments_pb2, routing_pb2, shadow_pb2, shadow_pb2_grpc, types_pb2
from router.v1 import judge_pb2 as pb

BOTH, RANDOM = pb.JudgeRun.METHOD_BOTH_ORDERS, pb.JudgeRun.METHOD_RANDOM_ORDER
ARM, OTHER = pb.GetJudgeReportResponse.CONCLUSION_ARM, pb.GetJudgeReportResponse.CONCLUSION_OTHER
UNDECIDED, UNUSABLE = pb.GetJudgeReportResponse.CONCLUSION_UNDECIDED, pb.GetJudgeReportResponse.CONCLUSION_UNUSABLE


@pytest.fixture
async def prepared(router: Router) -> Router:
    """A router whose experiment runs; comparisons are the test's."""
    await router.run(judged_experiment())
    return router


def lot(pair: Pair, seed: int) -> bytes:
    """The hash that everything drawn follows from."""
    return hashlib.sha256(struct.pack("!q", seed) + pair.key.bytes + struct.pack("!h", pair.shadow_arm)).digest()


async def rows(router: Router, run_id: str = "run") -> list[tuple]:
    return await query(
        router.url, "SELECT decision_key, shadow_first, repeat FROM judgments WHERE run_id = %s ORDER BY judgment", run_id
    )


# The sample


async def test_the_sample_follows_from_the_seed_and_not_from_time(prepared: Router):
    found = pairs([(0.1, 0.9)] * 300)
    add_comparisons(prepared.url, found)
    run = await create(stub(prepared), sample=40, seed=-5)
    assert (run.pairs, run.judgments, run.judged, run.cost_usd) == (40, 80, 0, 0.0)
    expected = sorted(found, key=lambda pair: lot(pair, -5))[:40]
    listed = [
        (pair.key, first, False)
        for pair in expected
        for first in ((True, False) if lot(pair, -5)[31] % 2 == 0 else (False, True))
    ]
    assert await rows(prepared) == listed
    assert len({key for key, *_ in listed[::2]} - {pair.key for pair in found[:40]}) > 20, "not the first ones"
    await create(stub(prepared), run_id="other-seed", sample=40, seed=6)
    assert await rows(prepared, "other-seed") != listed


async def test_one_random_order_and_repeats_in_the_same_order(prepared: Router):
    found = pairs([(0.1, 0.9)] * 400)
    add_comparisons(prepared.url, found)
    run = await create(stub(prepared), method=RANDOM, repeat_share=0.25, seed=3)
    expected = [
        (pair.key, lot(pair, 3)[31] % 2 == 0, repeat)
        for pair in sorted(found, key=lambda pair: lot(pair, 3))
        for repeat in ((False, True) if int.from_bytes(lot(pair, 3)[28:31], "big") / 2**24 < 0.25 else (False,))
    ]
    assert await rows(prepared) == expected
    assert (run.pairs, run.judgments) == (400, len(expected))
    # 400 and 100 draws: seeded, and far from the bounds of a fair coin.
    assert 160 < sum(first for _, first, repeat in expected if not repeat) < 240
    assert 70 < sum(repeat for *_, repeat in expected) < 130


async def test_all_are_repeated_or_none(prepared: Router):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)] * 30))
    assert (await create(stub(prepared), run_id="none")).judgments == 60
    assert (await create(stub(prepared), run_id="all", repeat_share=1.0)).judgments == 90


async def test_what_cannot_be_compared_is_not_drawn(prepared: Router):
    good = Pair(0, "served", "shadow")
    bad = [
        Pair(1, "served", "shadow", serving_error="timeout"),
        Pair(2, "served", "shadow", shadow_error="rate_limit"),
        Pair(3, "", "shadow"),
        Pair(4, "served", ""),
        Pair(5, "served", "shadow", prompt=""),
        Pair(6, "served", "shadow", text_mode="truncated"),
        Pair(7, None, None, prompt=None, text_mode="off"),
        Pair(8, "served", "shadow", shadow_arm=CONTROL, serving_arm=CHALLENGER),
        Pair(9, "served", None),
    ]
    add_comparisons(prepared.url, [good, *bad])
    assert (await create(stub(prepared))).pairs == 1
    assert {key for key, *_ in await rows(prepared)} == {good.key}


# The same run again


async def test_the_same_settings_are_the_same_run(prepared: Router, other_router: Router):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)] * 20))
    runs = await asyncio.gather(*(create(stub(r)) for r in (prepared, other_router) * 5))
    assert len({run.SerializeToString(deterministic=True) for run in runs}) == 1
    assert await scalar(prepared.url, "SELECT count(*) FROM judgments") == 40
    add_comparisons(prepared.url, [Pair(99, "served", "shadow")])
    assert await create(stub(prepared)) == runs[0], "what was recorded since is no part of it"
    left_open = await create(stub(prepared), arm_id="", other_arm_id="", method=pb.JudgeRun.METHOD_UNSPECIFIED)
    assert left_open == runs[0], "an arm that is left open is that of the run"


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8},
        {"sample": 999},
        {"rubric": "Which one is shorter?"},
        {"judge": "openai:another"},
        {"judge_family": "x"},
        {"method": RANDOM},
        {"repeat_share": 0.5},
        {"allow_same_family": True},
        {"arm_id": "plain", "other_arm_id": "fancy"},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_other_settings_are_refused(prepared: Router, other):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)] * 3))
    await create(stub(prepared))
    refusal = await refused(create(stub(prepared), **other))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "JUDGE_RUN_EXISTS")
    assert all(name in refusal.message for name in other)


async def test_a_run_of_another_experiment_is_refused(prepared: Router):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)] * 3))
    await create(stub(prepared))
    await prepared.run(judged_experiment(experiment_id="second"))
    refusal = await refused(create(stub(prepared), experiment_id="second"))
    assert (refusal.reason, "experiment_id" in refusal.message) == ("JUDGE_RUN_EXISTS", True)


# Refusals


async def test_what_does_not_exist(prepared: Router):
    service = stub(prepared)
    for call, reason in (
        (create(service, experiment_id="nothing"), "EXPERIMENT_NOT_FOUND"),
        (service.ListJudgeRuns(pb.ListJudgeRunsRequest(experiment_id="nothing")), "EXPERIMENT_NOT_FOUND"),
        (service.ListPendingJudgments(pb.ListPendingJudgmentsRequest(run_id="nothing")), "JUDGE_RUN_NOT_FOUND"),
        (report_of(service, "nothing"), "JUDGE_RUN_NOT_FOUND"),
        (
            service.RecordVerdict(pb.RecordVerdictRequest(run_id="nothing", judgment=0, verdict=pb.VERDICT_A)),
            "JUDGE_RUN_NOT_FOUND",
        ),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, reason)


@pytest.mark.parametrize("run_id", ["", "\0", "a\0b", "a b", "x" * 129])
async def test_run_ids_that_no_run_can_have(prepared: Router, run_id: str):
    service = stub(prepared)
    for call in (
        service.ListPendingJudgments(pb.ListPendingJudgmentsRequest(run_id=run_id)),
        service.RecordVerdict(pb.RecordVerdictRequest(run_id=run_id, judgment=0, verdict=pb.VERDICT_A)),
        report_of(service, run_id),
    ):
        refusal = await refused(call)
        assert (refusal.code, list(refusal.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["run_id"])


@pytest.mark.parametrize(
    ("fields", "reason", "named"),
    [
        ({"arm_id": "nobody"}, "ARM_NOT_FOUND", "nobody"),
        ({"other_arm_id": "nobody"}, "ARM_NOT_FOUND", "nobody"),
        ({"arm_id": "plain", "other_arm_id": ""}, "INVALID_FIELD", "other_arm_id"),
        ({"sample": 0}, "INVALID_FIELD", "run.sample"),
        ({"repeat_share": 1.5}, "INVALID_FIELD", "run.repeat_share"),
        ({"run_id": "a b"}, "INVALID_FIELD", "run.run_id"),
        ({"judge_family": ""}, "INVALID_FIELD", "run.judge_family"),
    ],
)
async def test_bad_settings(prepared: Router, fields, reason, named):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)]))
    refusal = await refused(create(stub(prepared), **fields))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert named in refusal.message


async def test_the_arm_may_be_left_open_where_one_has_comparisons(router: Router):
    await router.run(judged_experiment(arm("third", family="mistral")))
    refusal = await refused(create(stub(router), arm_id="", other_arm_id=""))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_COMPARABLE_PAIRS")
    add_comparisons(router.url, pairs([(0.1, 0.9)] * 3))
    run = await create(stub(router), arm_id="", other_arm_id="")
    assert (run.arm_id, run.other_arm_id) == ("fancy", "plain")
    add_comparisons(router.url, [Pair(9, "served", "shadow", shadow_arm=2)])
    refusal = await refused(create(stub(router), run_id="second", arm_id=""))
    assert (refusal.reason, list(refusal.violations)) == ("INVALID_FIELD", ["arm_id"])
    assert "fancy, third" in refusal.message


@pytest.mark.parametrize("mode", ["off", "truncated"])
async def test_texts_that_were_not_recorded_in_full(prepared: Router, mode: str):
    texts = {"prompt": None} if mode == "off" else {}
    kept = None if mode == "off" else "some"
    add_comparisons(prepared.url, [Pair(n, kept, kept, text_mode=mode, **texts) for n in range(3)])
    refusal = await refused(create(stub(prepared)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TEXT_NOT_RECORDED")
    assert refusal.metadata == {"setting": "shadow.text", "value": mode}
    assert await scalar(prepared.url, "SELECT count(*) FROM judge_runs") == 0, "the run or nothing"
    add_comparisons(prepared.url, [Pair(9, "served", "shadow")])
    assert (await create(stub(prepared))).pairs == 1, "those that are full may be judged"


async def test_no_pair_to_judge(prepared: Router):
    refusal = await refused(create(stub(prepared)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_COMPARABLE_PAIRS")
    add_comparisons(prepared.url, [Pair(0, "served", "", shadow_error="timeout")])
    assert (await refused(create(stub(prepared)))).reason == "NO_COMPARABLE_PAIRS"


@pytest.mark.parametrize(
    ("family", "arm_id"), [("Mistral", "fancy"), (" MISTRAL ", "fancy"), ("anthropic", "plain"), ("ANTHROPIC", "plain")]
)
async def test_a_judge_of_an_arms_own_family(prepared: Router, family: str, arm_id: str):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)]))
    refusal = await refused(create(stub(prepared), judge_family=family))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JUDGE_FAMILY")
    assert refusal.metadata == {"arm_id": arm_id, "family": family.strip().lower()}
    assert (await create(stub(prepared), judge_family=family, allow_same_family=True)).allow_same_family


async def test_an_arm_without_a_family(router: Router):
    await router.run(judged_experiment(arm("third")))
    add_comparisons(router.url, [Pair(0, "served", "shadow", shadow_arm=2)])
    refusal = await refused(create(stub(router), arm_id="third"))
    assert (refusal.reason, refusal.metadata) == ("JUDGE_FAMILY", {"arm_id": "third", "family": ""})
    assert (await create(stub(router), arm_id="third", allow_same_family=True)).pairs == 1


# What is pending


async def test_pages_of_pending_judgments(prepared: Router):
    found = pairs([(0.1, 0.9)] * 25)
    add_comparisons(prepared.url, found)
    service = stub(prepared)
    await create(service)
    pending = await all_pending(service, page_size=7)
    assert [one.judgment for one in pending] == list(range(50))
    assert pending == await all_pending(service)
    by_key = {pair.key: pair for pair in found}
    for one, (key, shadow_first, _) in zip(pending, await rows(prepared), strict=True):
        pair = by_key[key]
        answers = (pair.shadow_text, pair.serving_text) if shadow_first else (pair.serving_text, pair.shadow_text)
        assert (one.prompt, one.answer_a, one.answer_b) == (pair.prompt, *answers)
    await service.RecordVerdict(pb.RecordVerdictRequest(run_id="run", judgment=3, verdict=pb.VERDICT_TIE))
    assert [one.judgment for one in await all_pending(service)] == [n for n in range(50) if n != 3]


async def test_a_page_ends_before_eight_mebibytes(prepared: Router):
    long = "é" * 1_000_000
    add_comparisons(prepared.url, [Pair(n, long, long, prompt=long) for n in range(3)])
    service = stub(prepared)
    await create(service)
    page = await service.ListPendingJudgments(pb.ListPendingJudgmentsRequest(run_id="run", page_size=1000))
    # A judgment has 6 million bytes: one fits into 8 MiB, two do not.
    assert [one.judgment for one in page.judgments] == [0]
    assert [one.judgment for one in await all_pending(service)] == list(range(6))


@pytest.mark.parametrize("token", ["x", "anVkZ21lbnQgLTE=", "anVkZ21lbnQgMS41", "anVkZ21lbnQgADE="])
async def test_bad_page_tokens(prepared: Router, token: str):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)]))
    await create(stub(prepared))
    request = pb.ListPendingJudgmentsRequest(run_id="run", page_token=token)
    assert (await refused(stub(prepared).ListPendingJudgments(request))).reason == "INVALID_PAGE_TOKEN"


# Verdicts


async def test_the_first_verdict_stays(prepared: Router, other_router: Router):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)]))
    await create(stub(prepared))
    call = routing_pb2.CallReport(latency=Duration(seconds=1, nanos=5000), input_tokens=10, output_tokens=2, cost_usd=0.25)
    first = pb.RecordVerdictRequest(run_id="run", judgment=0, verdict=pb.VERDICT_A, reason="first", call=call)
    assert not (await stub(prepared).RecordVerdict(first)).duplicate
    for router in (prepared, other_router):
        again = pb.RecordVerdictRequest(run_id="run", judgment=0, verdict=pb.VERDICT_B, reason="again")
        assert (await stub(router).RecordVerdict(again)).duplicate
    columns = "verdict, reason, latency_us, input_tokens, output_tokens, cost_usd, judged_at IS NOT NULL"
    assert await query(prepared.url, f"SELECT {columns} FROM judgments ORDER BY judgment") == [
        ("a", "first", 1_000_005, 10, 2, 0.25, True),
        (None, None, None, None, None, None, False),
    ]
    run = (await report_of(stub(prepared))).run
    assert (run.judgments, run.judged, run.cost_usd) == (2, 1, 0.25)


async def test_one_of_many_verdicts_at_once_stays(prepared: Router, other_router: Router):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)]))
    await create(stub(prepared))
    requests = [
        (router, pb.RecordVerdictRequest(run_id="run", judgment=1, verdict=verdict))
        for router in (prepared, other_router)
        for verdict in (pb.VERDICT_A, pb.VERDICT_B, pb.VERDICT_TIE)
    ]
    replies = await asyncio.gather(*(stub(router).RecordVerdict(request) for router, request in requests))
    assert [reply.duplicate for reply in replies].count(False) == 1


@pytest.mark.parametrize("judgment", [2, 2**31, 2**63 - 1])
async def test_a_judgment_that_is_not_of_the_run(prepared: Router, judgment: int):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)]))
    await create(stub(prepared))
    request = pb.RecordVerdictRequest(run_id="run", judgment=judgment, verdict=pb.VERDICT_A)
    refusal = await refused(stub(prepared).RecordVerdict(request))
    assert (refusal.reason, list(refusal.violations)) == ("INVALID_FIELD", ["judgment"])


async def test_reasons_are_kept_only_where_text_is_full(prepared: Router):
    add_comparisons(prepared.url, pairs([(0.1, 0.9)] * 4))
    service = stub(prepared)
    await create(service)

    async def kept(judgment: int) -> str | None:
        request = pb.RecordVerdictRequest(run_id="run", judgment=judgment, verdict=pb.VERDICT_A, reason="because")
        await service.RecordVerdict(request)
        return await scalar(prepared.url, "SELECT reason FROM judgments WHERE judgment = %s", judgment)

    assert await kept(0) == "because"
    await query(prepared.url, """UPDATE experiments SET shadow = '{"text": "TEXT_MODE_OFF"}'""")
    assert await kept(2) is None, "the rule was changed"
    await query(prepared.url, "UPDATE experiments SET shadow = '{}'")
    await query(
        prepared.url,
        "UPDATE shadow_comparisons SET text_mode = 'off', prompt = NULL, serving_text = NULL, shadow_text = NULL",
    )
    assert await kept(4) is None, "the texts are gone"
    assert await all_pending(service) == [], "nobody can judge the rest"


# Reports


async def test_a_report_worked_out_by_hand(prepared: Router):
    """40 pairs for the arm, 20 for the other, 10 ties. Users liked 15 of 20 served answers that won, 10 of 40 that lost."""
    qualities = [(0.2, 0.8)] * 40 + [(0.8, 0.2)] * 20 + [(0.5, 0.5)] * 10
    rewards = [1_000_000] * 10 + [0] * 30 + [1_000_000] * 15 + [0] * 5 + [None] * 10
    found = [
        Pair(p.number, p.serving_text, p.shadow_text, reward_micros=reward)
        for p, reward in zip(pairs(qualities), rewards, strict=True)
    ]
    add_comparisons(prepared.url, found)
    service = stub(prepared)
    await create(service, repeat_share=1.0)
    assert (await report_of(service)).pending_pairs == 70
    assert await judge_all(service) == 210
    report = await report_of(service)
    assert (report.judged_pairs, report.invalid_pairs, report.pending_pairs) == (70, 0, 0)
    for rate, wins in ((report.arm_wins, 40), (report.other_wins, 20), (report.ties, 10)):
        interval = binomtest(wins, 70).proportion_ci(method="wilson")
        assert (rate.estimate, rate.lower, rate.upper, rate.n) == pytest.approx((wins / 70, interval.low, interval.high, 70))
    assert report.net.estimate == pytest.approx(20 / 70)
    assert report.net.lower > 0
    assert report.conclusion == ARM
    assert "prefers fancy to plain" in report.summary
    assert (report.first_wins.estimate, report.first_wins.n, report.position_biased) == (0.5, 120, False)
    assert (report.order_agreement.estimate, report.self_agreement.estimate, report.self_agreement.n) == (1.0, 1.0, 70)
    assert report.user_agreement.estimate == pytest.approx(15 / 20 - 10 / 40)
    assert report.user_agreement.n == 60
    assert report.user_agreement.lower > 0


async def test_the_other_way_round_and_random_order(prepared: Router):
    add_comparisons(prepared.url, pairs([(0.8, 0.2)] * 50))
    service = stub(prepared)
    await create(service, method=RANDOM)
    await judge_all(service)
    report = await report_of(service)
    assert (report.conclusion, report.other_wins.estimate, report.judged_pairs) == (OTHER, 1.0, 50)
    assert not report.HasField("order_agreement")
    assert not report.HasField("self_agreement")
    assert not report.HasField("user_agreement")


@pytest.mark.parametrize("method", [BOTH, RANDOM])
async def test_a_judge_of_positions_is_exposed(prepared: Router, method: int):
    add_comparisons(prepared.url, pairs([(0.2, 0.8)] * 60))
    service = stub(prepared)
    await create(service, method=method)
    await judge_all(service, verdict=pb.VERDICT_A)
    report = await report_of(service)
    assert (report.conclusion, report.position_biased, report.first_wins.estimate) == (UNUSABLE, True, 1.0)
    assert "the verdicts are the position's" in report.summary
    if method == BOTH:
        assert (report.ties.estimate, report.order_agreement.estimate) == (1.0, 0.0)


async def test_too_few_and_invalid(prepared: Router):
    add_comparisons(prepared.url, pairs([(0.2, 0.8)] * 40))
    service = stub(prepared)
    await create(service)
    await judge_all(service, verdict=pb.VERDICT_INVALID)
    report = await report_of(service)
    assert (report.judged_pairs, report.invalid_pairs, report.conclusion) == (0, 40, UNUSABLE)
    assert not report.net.HasField("estimate")
    assert "fewer than 30" in report.summary
    assert "100% of the judged pairs are invalid" in report.summary


async def test_units_that_recur_widen_the_interval(prepared: Router):
    """The same verdicts, of 60 units or of 6."""
    service = stub(prepared)
    widths = []
    for name, units in (("many", 60), ("few", 6)):
        await prepared.run(judged_experiment(experiment_id=name))
        found = [
            Pair(1000 * units + p.number, p.serving_text, p.shadow_text, unit=p.number % units)
            for p in pairs([(0.2, 0.8) if n % 6 < 4 else (0.8, 0.2) for n in range(60)])
        ]
        add_comparisons(prepared.url, found, name)
        await create(service, run_id=name, experiment_id=name)
        await judge_all(service, name)
        report = await report_of(service, name)
        assert report.net.estimate == pytest.approx(1 / 3)
        widths.append(report.net.upper - report.net.lower)
    assert widths[1] > 1.8 * widths[0]


async def test_verdicts_never_move_the_posterior(prepared: Router):
    add_comparisons(prepared.url, pairs([(0.2, 0.8)] * 40))
    before = await prepared.posterior()
    await create(stub(prepared))
    await judge_all(stub(prepared))
    after = await prepared.posterior()
    assert (before.arms, before.policy_version) == (after.arms, after.policy_version)


# Lists


async def test_runs_are_listed_newest_first(prepared: Router):
    add_comparisons(prepared.url, pairs([(0.2, 0.8)] * 3))
    service = stub(prepared)
    for name in ("b", "a", "c"):
        await create(service, run_id=name)
    runs = (await service.ListJudgeRuns(pb.ListJudgeRunsRequest(experiment_id="support"))).runs
    assert [run.run_id for run in runs] == ["c", "a", "b"]
    wanted = run_of(run_id="c", method=BOTH)
    assert runs[0].create_time.ToMicroseconds() > runs[1].create_time.ToMicroseconds()
    for name in ("create_time", "pairs", "judgments"):
        runs[0].ClearField(name)
    assert runs[0] == wanted


async def test_what_is_shown_says_nothing_of_whose_answer_it_is(prepared: Router):
    names = [field.name for field in pb.PendingJudgment.DESCRIPTOR.fields]
    assert Counter(names) == Counter(["judgment", "prompt", "answer_a", "answer_b"])


# From Route to a report


def mirrored(text: int, experiment_id: str = "support") -> experiments_pb2.Experiment:
    definition = judged_experiment(experiment_id=experiment_id)
    definition.arms[1].role = types_pb2.ROLE_SHADOW
    definition.shadow.rate = 1.0
    definition.shadow.text = text  # type: ignore[assignment]
    return definition


async def record(router: Router, number: int) -> None:
    """Serve a request as a caller with a shadow arm does."""
    decision = await router.route(unit_id=f"unit-{number % 5}")
    (shadow,) = decision.shadow_arms
    call = routing_pb2.CallReport()
    request = shadow_pb2.RecordShadowRequest(
        decision_id=decision.decision_id,
        arm_id=shadow.arm_id,
        prompt=f"Question {number}?",
        serving=shadow_pb2.ModelAnswer(text=answer(number, 0.2, "one"), call=call),
        shadow=shadow_pb2.ModelAnswer(text=answer(number, 0.8, "the other"), call=call),
    )
    await shadow_pb2_grpc.ShadowServiceStub(router.channel).RecordShadow(request)
    await router.reward(decision.decision_id, 0.25)


async def test_what_a_shadow_arm_answered_is_judged(router: Router):
    await router.run(mirrored(types_pb2.TEXT_MODE_FULL))
    for number in range(35):
        await record(router, number)
    service = stub(router)
    run = await create(service, arm_id="", other_arm_id="")
    assert (run.arm_id, run.other_arm_id, run.pairs) == ("fancy", "plain", 35)
    await judge_all(service)
    report = await report_of(service)
    # 35 pairs of 5 units, in which nothing varies, tell no more than 5 pairs: that is not enough.
    assert (report.conclusion, report.arm_wins.estimate, report.net.n) == (UNDECIDED, 1.0, 35)
    rows = await query(router.url, "SELECT DISTINCT reason, unit_hash IS NOT NULL FROM judgments")
    assert rows == [("because", True)]


@pytest.mark.parametrize(("text", "value"), [("TEXT_MODE_OFF", "off"), ("TEXT_MODE_TRUNCATED", "truncated")])
async def test_the_setting_that_keeps_texts_away_is_named(router: Router, text: str, value: str):
    await router.run(mirrored(types_pb2.TextMode.Value(text)))
    refusal = await refused(create(stub(router), arm_id=""))
    assert (refusal.reason, refusal.metadata) == ("TEXT_NOT_RECORDED", {"setting": "shadow.text", "value": value})
    await record(router, 0)
    refusal = await refused(create(stub(router)))
    assert (refusal.reason, refusal.metadata) == ("TEXT_NOT_RECORDED", {"setting": "shadow.text", "value": value})
    assert f"shadow.text is {value}" in refusal.message
    full = mirrored(types_pb2.TEXT_MODE_FULL)
    await router.update(full)
    await until(lambda: registered(router), "the rule is in force")
    await record(router, 1)
    assert (await create(stub(router))).pairs == 1
    await router.update(mirrored(types_pb2.TextMode.Value(text)))
    assert (await create(stub(router), run_id="second")).pairs == 1, "what was recorded in full may be judged"
    await judge_all(stub(router), "second")
    kept = await query(router.url, "SELECT DISTINCT reason FROM judgments WHERE run_id = 'second'")
    assert kept == [(None,)], "but no reason is kept any more"


async def registered(router: Router) -> bool:
    return bool((await router.route()).shadow_arms)
