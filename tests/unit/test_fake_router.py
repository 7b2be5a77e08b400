"""The stand-in for users' tests: what it shares with every router, and what tests can make it do."""

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from router.client import (
    Arm,
    AsyncRouterClient,
    CallReport,
    ClientStats,
    FailedPrecondition,
    InvalidArgument,
    ModelAnswer,
    NotFound,
    Reason,
    RewardEvent,
    RouterClient,
    RouteRequest,
    Signal,
    Status,
    TextMode,
    Unavailable,
)
from router.testing import FakeExperiment, FakeReward, FakeRouter

ARMS = (Arm("a", "model-a", {"max_tokens": 1024, "nested": {"stop": [1, 0.5]}}), Arm("b", "model-b"))


@dataclass
class Subject:
    """A router under test: running experiment "support" of ARMS, paused "paused", and sticky "sticky", also of ARMS."""

    client: RouterClient
    aio: AsyncRouterClient


class RouterConformance:
    """What holds of every router. A subclass gives `subject`, for example with clients of a real server."""

    @pytest.fixture
    def client(self, subject: Subject) -> RouterClient:
        return subject.client

    def test_a_unit_counts_up_to_its_share_and_corrects_what_counts(self, client):
        routed = [client.route("support", unit_id="busy") for _ in range(12)]
        first = [client.reward(decision, reward=1.0, event_id="first").status for decision in routed]
        assert first == [Status.APPLIED] * 10 + [Status.LIMITED] * 2
        assert client.reward(routed[0], reward=0.0, event_id="second").status is Status.APPLIED
        assert client.reward(routed[10], reward=0.0, event_id="second").status is Status.LIMITED
        assert client.reward(routed[10], reward=1.0, event_id="first").status is Status.DUPLICATE
        assert client.reward(client.route("support", unit_id="another"), reward=1.0).status is Status.APPLIED
        nobody = [client.reward(client.route("support"), reward=1.0).status for _ in range(12)]
        assert nobody == [Status.APPLIED] * 12

    def test_a_decision_is_drawn_from_its_allocation(self, client):
        decision = client.route("support", session_id="s", turn_id="1")
        assert decision.experiment_id == "support"
        assert decision.arm in ARMS
        assert set(decision.allocation) == {"a", "b"}
        assert sum(decision.allocation.values()) == pytest.approx(1, abs=1e-12)
        assert decision.propensity == decision.allocation[decision.arm.arm_id] > 0
        assert decision.policy_version >= 1
        assert decision.reason is Reason.SAMPLED
        assert decision.stale_for == timedelta(0)
        assert decision.shadow_arms == ()
        assert not decision.is_fallback

    def test_config_comes_back_as_it_was_given(self, client):
        config = client.route("support", force_arm_id="a").arm.config
        assert config == ARMS[0].config
        assert type(config["max_tokens"]) is int

    def test_a_request_id_is_one_decision_within_its_experiment(self, client):
        first = client.route("support", request_id="r")
        assert client.route("support", request_id="r") == first
        assert client.route("sticky", unit_id="u", request_id="r").decision_id != first.decision_id

    def test_two_requests_are_two_decisions(self, client):
        assert client.route("support").decision_id != client.route("support").decision_id

    def test_only_eligible_arms_are_drawn(self, client):
        for _ in range(20):
            decision = client.route("support", eligible_arm_ids=["b"])
            assert decision.arm.arm_id == "b"
            assert decision.propensity == 1.0
            assert [arm_id for arm_id, probability in decision.allocation.items() if probability > 0] == ["b"]

    def test_a_forced_arm_is_sure(self, client):
        decision = client.route("support", force_arm_id="b")
        assert (decision.arm.arm_id, decision.propensity, decision.reason) == ("b", 1.0, Reason.FORCED)

    def test_a_sticky_unit_keeps_its_arm(self, client):
        units = [f"u{number}" for number in range(20)]
        first = {unit: client.route("sticky", unit_id=unit).arm.arm_id for unit in units}
        assert {unit: client.route("sticky", unit_id=unit).arm.arm_id for unit in units} == first
        assert set(first.values()) == {"a", "b"}

    def test_a_sticky_experiment_needs_the_unit(self, client):
        with pytest.raises(InvalidArgument) as raised:
            client.route("sticky")
        assert [violation.field for violation in raised.value.violations] == ["unit_id"]

    def test_an_unknown_experiment_is_not_found(self, client):
        with pytest.raises(NotFound, match="nope") as raised:
            client.route("nope")
        assert raised.value.reason == "EXPERIMENT_NOT_FOUND"

    def test_a_paused_experiment_does_not_serve(self, client):
        with pytest.raises(FailedPrecondition) as raised:
            client.route("paused")
        assert (raised.value.reason, raised.value.metadata["state"]) == ("EXPERIMENT_NOT_RUNNING", "paused")
        assert client.route("paused", fallback="a").is_fallback

    @pytest.mark.parametrize("request_", [{"force_arm_id": "zz"}, {"eligible_arm_ids": ["a", "zz"]}])
    def test_an_unknown_arm_is_refused(self, client, request_):
        with pytest.raises(InvalidArgument, match="zz") as raised:
            client.route("support", **request_)
        assert (raised.value.reason, raised.value.metadata["arm_id"]) == ("ARM_NOT_FOUND", "zz")

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            ({"experiment_id": ""}, "experiment_id"),
            ({"experiment_id": "no spaces"}, "experiment_id"),
            ({"unit_id": "u" * 257}, "unit_id"),
            ({"session_id": "tab\there"}, "session_id"),
            ({"turn_id": "nul\0"}, "turn_id"),
            ({"eligible_arm_ids": ["a", "a"]}, "eligible_arm_ids"),
            ({"eligible_arm_ids": ["a", ""]}, "eligible_arm_ids[1]"),
            ({"segment": "a b"}, "segment"),
            ({"prompt_fingerprint": "the prompt itself"}, "prompt_fingerprint"),
            ({"prompt_similarity": 1.5}, "prompt_similarity"),
        ],
    )
    def test_a_request_that_breaks_a_field_rule_is_refused(self, client, request_, field):
        with pytest.raises(InvalidArgument) as raised:
            client.route(**{"experiment_id": "support", **request_})
        assert raised.value.reason == "INVALID_FIELD"
        assert {violation.field for violation in raised.value.violations} == {field}
        assert all(violation.description for violation in raised.value.violations)

    @pytest.mark.parametrize("signal", list(Signal))
    def test_a_signal_is_applied_unless_it_is_neutral(self, client, signal):
        decision = client.route("support")
        result = client.reward(decision, signal=signal)
        assert result.status is (Status.NEUTRAL if signal is Signal.FOLLOW_UP_QUESTION else Status.APPLIED)
        assert result.arm_id == decision.arm.arm_id

    @pytest.mark.parametrize("reward", [0, 0.5, 1])
    def test_a_reward_is_applied(self, client, reward):
        assert client.reward(client.route("support"), reward=reward).status is Status.APPLIED

    def test_a_call_report_is_neutral(self, client):
        report = CallReport(latency=timedelta(seconds=2), input_tokens=10, output_tokens=3, cost_usd=0.01)
        assert client.reward(client.route("support"), call=report).status is Status.NEUTRAL

    def test_an_event_id_counts_once_for_its_decision(self, client):
        first, second = client.route("support"), client.route("support")
        assert client.reward(first, event_id="e", signal="thumbs_up").status is Status.APPLIED
        assert client.reward(first, event_id="e", signal="thumbs_up").status is Status.DUPLICATE
        assert client.reward(first, event_id="f", signal="thumbs_up").status is Status.APPLIED
        assert client.reward(second, event_id="e", signal="thumbs_up").status is Status.APPLIED

    def test_a_decision_is_rewarded_by_its_id_alone(self, client):
        decision = client.route("support")
        assert client.reward(decision.decision_id, reward=1).arm_id == decision.arm.arm_id

    @pytest.mark.parametrize("garble", [lambda id_: "nonsense", lambda id_: id_[:-1], lambda id_: id_ + "A"])
    def test_an_id_that_no_router_gave_is_refused(self, client, garble):
        with pytest.raises(InvalidArgument) as raised:
            client.reward(garble(client.route("support").decision_id), reward=1)
        assert raised.value.reason.startswith("DECISION_ID_")

    @pytest.mark.parametrize(
        ("event", "field"),
        [
            ({"event_id": ""}, "event_id"),
            ({"event_id": "e" * 129}, "event_id"),
            ({"reward": 1.5}, "reward"),
            ({"reward": -0.1}, "reward"),
            ({"reward": float("nan")}, "reward"),
            ({"metadata": {"k": "v" * 1025}}, 'metadata["k"]'),
            ({"metadata": {str(number): "" for number in range(33)}}, "metadata"),
        ],
    )
    def test_an_event_that_breaks_a_field_rule_is_refused(self, client, event, field):
        with pytest.raises(InvalidArgument) as raised:
            client.reward(client.route("support"), **{"reward": 1.0, **event})
        assert raised.value.reason == "INVALID_FIELD"
        assert [violation.field for violation in raised.value.violations] == [field]

    @pytest.mark.parametrize(
        ("report", "field"),
        [
            (CallReport(latency=timedelta(seconds=-1)), "call.latency"),
            (CallReport(output_tokens=-1), "call.output_tokens"),
            (CallReport(cost_usd=float("inf")), "call.cost_usd"),
        ],
    )
    def test_a_report_that_breaks_a_field_rule_is_refused(self, client, report, field):
        with pytest.raises(InvalidArgument) as raised:
            client.reward(client.route("support"), call=report)
        assert [violation.field for violation in raised.value.violations] == [field]

    def test_a_batch_is_decided_item_by_item(self, client):
        requests = [
            RouteRequest("support", turn_id="0"),
            RouteRequest("nope", turn_id="1"),
            RouteRequest("support", turn_id="2", eligible_arm_ids=["b"]),
            RouteRequest("support", turn_id="bad\n"),
            RouteRequest("support", turn_id="4"),
        ]
        zero, one, two, three, four = client.batch_route(requests)
        assert isinstance(one, NotFound)
        assert isinstance(three, InvalidArgument)
        assert [decision.turn_id for decision in (zero, two, four)] == ["0", "2", "4"]
        assert two.arm.arm_id == "b"
        for decision in (zero, two, four):
            assert decision.propensity == decision.allocation[decision.arm.arm_id]
        assert len({zero.decision_id, two.decision_id, four.decision_id}) == 3

    def test_a_batch_of_events_is_taken_item_by_item(self, client):
        first, second = client.route("support"), client.route("support")
        results = client.batch_reward(
            [
                RewardEvent(first, event_id="e", signal="task_completed"),
                RewardEvent(first, event_id="e", signal="task_completed"),
                RewardEvent("nonsense", reward=1),
                RewardEvent(second, reward=2),
                RewardEvent(second, event_id="e", signal="follow_up_question"),
            ]
        )
        assert [result.status for result in (results[0], results[1], results[4])] == [
            Status.APPLIED,
            Status.DUPLICATE,
            Status.NEUTRAL,
        ]
        assert results[2].reason == "DECISION_ID_MALFORMED"
        assert [violation.field for violation in results[3].violations] == ["reward"]

    def test_a_batch_may_not_be_larger_than_the_contract_says(self, client):
        with pytest.raises(InvalidArgument) as raised:
            client.batch_route([RouteRequest("support")] * 1001)
        assert [violation.field for violation in raised.value.violations] == ["requests"]

    async def test_asyncio_and_threads_use_the_same_router(self, subject):
        decision = await subject.aio.route("support", request_id="r")
        assert await asyncio.to_thread(subject.client.route, "support", request_id="r") == decision
        result = await subject.aio.reward(decision, event_id="e", reward=1)
        assert result.status is Status.APPLIED
        again = await asyncio.to_thread(subject.client.reward, decision, event_id="e", reward=1)
        assert again.status is Status.DUPLICATE


class TestConformance(RouterConformance):
    """The fake is a router."""

    @pytest.fixture
    def subject(self) -> Subject:
        fake = FakeRouter(
            {
                "support": ARMS,
                "paused": FakeExperiment(ARMS, running=False),
                "sticky": FakeExperiment(ARMS, sticky=True),
            }
        )
        return Subject(fake, fake.aio)


def arms_of(router: RouterClient, count: int, experiment_id: str = "x", **request: object) -> str:
    return "".join(router.route(experiment_id, **request).arm.arm_id for _ in range(count))


class TestChoice:
    def test_of_one_arm(self):
        fake = FakeRouter(arms=["a", "b"], choose="b")
        assert arms_of(fake, 3) == "bbb"
        assert fake.decisions[0].allocation == {"a": 0.0, "b": 1.0}
        assert fake.decisions[0].propensity == 1.0

    def test_of_a_sequence_over_and_over_for_each_experiment(self):
        fake = FakeRouter(arms=["a", "b"], choose=["a", "a", "b"])
        assert arms_of(fake, 5, "x") == "aabaa"
        assert arms_of(fake, 3, "y") == "aab"
        assert fake.decisions[2].propensity == 0.5

    def test_by_seed(self):
        draws = arms_of(FakeRouter(arms=["a", "b"], seed=7), 200)
        assert draws == arms_of(FakeRouter(arms=["a", "b"], seed=7), 200)
        assert draws != arms_of(FakeRouter(arms=["a", "b"], seed=8), 200)
        # A fair coin leaves this range once in 10**8 seeds; the seed is fixed.
        assert 60 <= Counter(draws)["a"] <= 140

    def test_by_seed_does_not_depend_on_other_experiments(self):
        alone, shared = FakeRouter(arms=["a", "b"]), FakeRouter(arms=["a", "b"])
        interleaved = ""
        for _ in range(50):
            interleaved += arms_of(shared, 1, "x")
            shared.route("y")
        assert interleaved == arms_of(alone, 50, "x")

    def test_may_change_during_a_test(self):
        fake = FakeRouter({"x": FakeExperiment(["a", "b"], choose="a")})
        assert arms_of(fake, 2) == "aa"
        fake.experiments["x"].choose = "b"
        assert arms_of(fake, 2) == "bb"
        fake.experiments["x"].running = False
        with pytest.raises(FailedPrecondition):
            fake.route("x")

    @pytest.mark.parametrize("choose", ["a", ["a", "b"]])
    def test_of_an_arm_that_the_request_rules_out_fails_as_an_arm_of_weight_0(self, choose):
        fake = FakeRouter(arms=["a", "b"], choose=choose)
        with pytest.raises(FailedPrecondition) as raised:
            fake.route("x", eligible_arm_ids=["b"])
        assert raised.value.reason == "NO_ELIGIBLE_ARM"

    def test_of_an_arm_that_there_is_not_is_refused(self):
        with pytest.raises(ValueError, match="'c'"):
            FakeExperiment(["a", "b"], choose=["a", "c"])

    def test_without_arms_is_refused(self):
        with pytest.raises(ValueError, match="FakeExperiment"):
            FakeRouter({"x": ["a"]}, choose="a")

    def test_for_a_sticky_unit_is_made_once_and_then_replayed(self):
        fake = FakeRouter({"x": FakeExperiment(["a", "b"], choose=["a", "b"], sticky=True)})
        assert arms_of(fake, 2, unit_id="u") == "aa"
        assert arms_of(fake, 2, unit_id="v") == "bb"
        assert [decision.reason for decision in fake.decisions[:2]] == [Reason.SAMPLED, Reason.STICKY]

    def test_for_a_sticky_unit_yields_to_eligibility(self):
        fake = FakeRouter({"x": FakeExperiment(["a", "b"], sticky=True)})
        kept = fake.route("x", unit_id="u").arm.arm_id
        other = "b" if kept == "a" else "a"
        assert fake.route("x", unit_id="u", eligible_arm_ids=[other]).arm.arm_id == other

    def test_arms_for_every_experiment_leave_those_named_as_they_are(self):
        fake = FakeRouter({"x": ["a"]}, arms=["b"])
        assert arms_of(fake, 1, "x") + arms_of(fake, 1, "y") == "ab"

    def test_of_nothing_finds_no_experiment(self):
        with pytest.raises(NotFound):
            FakeRouter().route("x")


class TestRecords:
    def test_decisions_are_those_returned_once_each(self):
        fake = FakeRouter(arms=["a", "b"])
        first = fake.route("x", session_id="s", turn_id="1", request_id="r")
        fake.route("x", request_id="r")
        batch = fake.batch_route([RouteRequest("x"), RouteRequest("no spaces"), RouteRequest("y")])
        assert fake.decisions == (first, batch[0], batch[2])

    def test_rewards_hold_what_was_told_and_its_status(self):
        fake = FakeRouter(arms=["a"])
        decision = fake.route("x")
        at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        report = CallReport(latency=timedelta(seconds=1.5), input_tokens=0, error="timeout")
        fake.reward(decision, event_id="1", signal="thumbs_up", occurred_at=at, metadata={"k": "v"})
        fake.reward(decision, event_id="1", signal="thumbs_up")
        fake.reward(decision, event_id="2", reward=0.25)
        fake.reward(decision, event_id="3", call=report)
        with pytest.raises(InvalidArgument):
            fake.reward(decision, reward=7)
        up = Signal.THUMBS_UP
        assert fake.rewards == (
            FakeReward(decision, "1", Status.APPLIED, up, None, None, at, {"k": "v"}),
            FakeReward(decision, "1", Status.DUPLICATE, up, None, None, None, {}),
            FakeReward(decision, "2", Status.APPLIED, None, 0.25, None, None, {}),
            FakeReward(decision, "3", Status.NEUTRAL, None, None, report, None, {}),
        )

    def test_nothing_is_learned_from_a_forced_decision(self):
        fake = FakeRouter(arms=["a"])
        assert fake.reward(fake.route("x", force_arm_id="a"), reward=1).status is Status.NEUTRAL

    def test_ids_tell_what_is_wrong_with_them(self):
        fake, other = FakeRouter(arms=["a"]), FakeRouter(arms=["a"])
        decision_id = fake.route("x").decision_id
        reasons = []
        for wrong in (decision_id[:-3], other.route("x").decision_id, decision_id[:-1] + "7"):
            with pytest.raises(InvalidArgument) as raised:
                fake.reward(wrong, reward=1)
            reasons.append(raised.value.reason)
        assert reasons == ["DECISION_ID_MALFORMED", "DECISION_ID_FOREIGN", "DECISION_ID_TAMPERED"]

    def test_are_complete_from_many_threads(self):
        fake = FakeRouter(arms=["a", "b"])
        start = threading.Barrier(8)

        def use(_: int) -> None:
            start.wait()
            for _ in range(25):
                fake.reward(fake.route("x"), reward=1)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(8)))
        assert len(fake.decisions) == len(fake.rewards) == 200
        assert len({decision.decision_id for decision in fake.decisions}) == 200


class TestUnreachable:
    def test_without_a_fallback_arm(self):
        fake = FakeRouter(arms=["a"])
        decision = fake.route("x")
        fake.unreachable = True
        for use in (
            lambda: fake.route("x"),
            lambda: fake.reward(decision, reward=1),
            lambda: fake.batch_route([RouteRequest("x")]),
            lambda: fake.batch_reward([RewardEvent(decision, reward=1)]),
        ):
            with pytest.raises(Unavailable):
                use()
        fake.unreachable = False
        assert fake.route("x").arm.arm_id == "a"

    async def test_with_a_fallback_arm(self):
        fake = FakeRouter(arms=["a"], fallback_arms={"x": "b"})
        fake.unreachable = True
        for decision in (fake.route("x"), await fake.aio.route("x"), *fake.batch_route([RouteRequest("x")])):
            assert decision.is_fallback
            assert decision.arm.arm_id == "b"
            assert fake.reward(decision, reward=1).status is Status.NOT_SENT
        assert fake.stats() == ClientStats(fallbacks=2, skipped_rewards=3)
        assert fake.aio.stats() == ClientStats(fallbacks=1, skipped_rewards=0)
        assert fake.decisions == fake.rewards == ()


async def test_is_used_like_the_clients_it_stands_in_for():
    with FakeRouter(arms=["a"]) as fake:
        assert isinstance(fake, RouterClient)
        assert isinstance(fake.aio, AsyncRouterClient)
        async with fake.aio as aio:
            assert (await aio.route("x")).arm.arm_id == "a"


def test_importing_it_imports_no_server():
    heavy = ("numpy", "scipy", "sqlalchemy", "psycopg", "alembic", "pydantic", "bandit", "router.server")
    script = f"import sys, router.testing; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


class TestShadow:
    def fake(self, **fields: object) -> FakeRouter:
        shadow = Arm("s", "model-s", {"top_k": 3})
        return FakeRouter({"x": FakeExperiment(["a", "b"], shadow_arms=[shadow], **fields)})  # type: ignore[arg-type]

    def test_every_decision_is_mirrored_but_forced_ones(self):
        fake = self.fake(shadow_text=TextMode.TRUNCATED, shadow_text_limit=7)
        decision = fake.route("x")
        assert decision.shadow_arms == (Arm("s", "model-s", {"top_k": 3}),)
        assert (decision.shadow_text, decision.shadow_text_limit) == (TextMode.TRUNCATED, 7)
        for forced in (fake.route("x", force_arm_id="b"), fake.route("x", force_control=True)):
            assert (forced.shadow_arms, forced.shadow_text) == ((), TextMode.UNSPECIFIED)
        assert FakeRouter({"x": ["a"]}).route("x").shadow_arms == ()

    @pytest.mark.parametrize(("control", "arm_id"), [("", "a"), ("b", "b")])
    def test_the_control_can_be_forced(self, control, arm_id):
        decision = self.fake(control=control).route("x", force_control=True)
        assert (decision.arm.arm_id, decision.reason, decision.propensity) == (arm_id, Reason.FORCED, 1.0)

    def test_what_is_recorded_is_cut_before_it_is_sent(self):
        fake = self.fake(shadow_text=TextMode.TRUNCATED, shadow_text_limit=3)
        decision = fake.route("x")
        answer = ModelAnswer(text="abcdef", call=CallReport(cost_usd=0.5), model="m", stop_reason="end_turn")
        mirrored = ModelAnswer(call=CallReport(latency=timedelta(seconds=2), error="timeout"), provider_request_id="r-1")
        arguments = {"serving": answer, "shadow": mirrored, "prompt": "prompt", "request_id": "mine"}
        assert fake.record_shadow(decision, "s", **arguments)
        assert not fake.record_shadow(decision, decision.shadow_arms[0], **arguments)
        (found,) = fake.comparisons
        assert (found.arm_id, found.request_id, found.prompt, found.decision.arm) == ("s", "mine", "pro", decision.arm)
        assert (found.serving, found.shadow) == (replace(answer, text="abc"), mirrored)

    @pytest.mark.parametrize(("mode", "kept"), [(TextMode.OFF, ""), (TextMode.FULL, "abcdef")])
    async def test_texts_are_kept_as_the_experiment_says(self, mode, kept):
        fake = self.fake(shadow_text=mode)
        decision = await fake.aio.route("x")
        answer = ModelAnswer(text="abcdef")
        assert await fake.aio.record_shadow(decision.decision_id, "s", serving=answer, shadow=answer, prompt="abcdef")
        (found,) = fake.comparisons
        assert {found.prompt, found.serving.text, found.shadow.text} == {kept}

    @pytest.mark.parametrize("arm_id", ["nobody", "a"])
    def test_other_arms_are_refused(self, arm_id):
        fake = self.fake()
        with pytest.raises(InvalidArgument, match="is not an arm that the decision could be mirrored to"):
            fake.record_shadow(fake.route("x", force_arm_id="a"), arm_id, serving=ModelAnswer(), shadow=ModelAnswer())

    def test_a_fallback_has_nothing_to_record(self):
        fake = self.fake()
        fake.unreachable = True
        decision = fake.route("x", fallback="a")
        assert not fake.record_shadow(decision, "s", serving=ModelAnswer(), shadow=ModelAnswer())
        assert fake.comparisons == ()

    def test_two_arms_cannot_be_forced(self):
        with pytest.raises(InvalidArgument, match="force_control"):
            self.fake().route("x", force_arm_id="b", force_control=True)

    @pytest.mark.parametrize(
        ("fields", "match"), [({"shadow_arms": ["a"]}, "never answers"), ({"control": "s"}, "not among the arms")]
    )
    def test_an_experiment_that_makes_no_sense_is_refused(self, fields, match):
        with pytest.raises(ValueError, match=match):
            FakeExperiment(["a", "b"], **fields)
