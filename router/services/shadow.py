"""ShadowService: what arms that never answer would have answered, kept beside what was served."""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from uuid import UUID

from router.access.caller import check_scope
from router.budgets import Budgets
from router.errors import InvalidArgumentError, NotFoundError
from router.experiment import Arm, Definition, ShadowRule
from router.messages import is_duration
from router.rules import shadow_rule_of
from router.services import Context
from router.services.pages import page_token, place_of
from router.storage import experiments, shadow
from router.storage.database import Database, driver_of
from router.storage.shadow import AnswerRow, ComparisonRow, Recorded, Target
from router.storage.times import day_of
from router.tokens import DecisionToken, TokenCodec
from router.v1 import routing_pb2, shadow_pb2_grpc
from router.v1 import shadow_pb2 as pb

_DEFAULT_PAGE = 100
_NO_UNIT = bytes(8)
#: What one call counts at most, so that no sum of them is beyond a double.
_MOST_USD = 1e9
#: Time of a decision in microseconds, its key, and the number of a shadow arm.
_PLACE = re.compile(r"([0-9]{1,17}):([0-9a-f]{32}):([0-9]{1,5})", re.ASCII).fullmatch


class ShadowService(shadow_pb2_grpc.ShadowServiceServicer):
    """Implements `router.v1.ShadowService`."""

    def __init__(
        self,
        database: Database,
        codec: TokenCodec,
        budgets: Budgets,
        announce: Callable[[Iterable[int]], None],
        clock_us: Callable[[], int],
    ) -> None:
        """`clock_us` gives microseconds since the epoch; `announce` has the other replicas read an experiment again."""
        self._database = database
        self._codec = codec
        self._budgets = budgets
        self._announce = announce
        self._clock_us = clock_us

    async def RecordShadow(self, request: pb.RecordShadowRequest, context: Context) -> pb.RecordShadowResponse:
        """See the proto."""
        for name, answer in (("serving", request.serving), ("shadow", request.shadow)):
            latency = answer.call.latency
            if not is_duration(latency) or latency.seconds < 0 or latency.nanos < 0:
                rule = "must have nanos below 1,000,000,000, and not be below 0"
                raise InvalidArgumentError.of_field(f"{name}.call.latency", rule)
        token = self._codec.open(request.decision_id)
        now_us = self._clock_us()
        day = day_of(now_us)
        async with self._database.begin() as connection:
            driver = await driver_of(connection)
            target = await shadow.read_target(driver, token.incarnation, token.arm, request.arm_id, token.decided_at_us)
            if target is None or target.serving_arm_id is None:
                raise NotFoundError("decision_id: its experiment is no longer in the database")
            check_scope(target.experiment_id)
            row = _row(request, token, target, now_us)
            call = request.shadow.call
            cost_usd = min(_MOST_USD, call.cost_usd if call.HasField("cost_usd") else target.cost_usd or 0.0)
            recorded = await shadow.record(driver, token.incarnation, row, day, cost_usd)
        self._count(token.incarnation, target, recorded, day, cost_usd)
        return pb.RecordShadowResponse(duplicate=not recorded.new)

    async def ListComparisons(self, request: pb.ListComparisonsRequest, context: Context) -> pb.ListComparisonsResponse:
        """See the proto."""
        before = _place(place_of(request.page_token, "before:", "ListComparisons"))
        async with self._database.snapshot() as connection:
            found = await experiments.read(connection, request.experiment_id)
            if found is None:
                raise NotFoundError.of_experiment(request.experiment_id)
            definition = found[0]
            arms = _versions(definition, request.arm_id)
            driver = await driver_of(connection)
            limit = request.page_size or _DEFAULT_PAGE
            rows, more = await shadow.read_page(driver, definition.incarnation, arms, before, limit)
        known = {arm.number: arm for arm in definition.arms}
        return pb.ListComparisonsResponse(
            comparisons=[comparison_message(row, known[row.serving_arm], known[row.shadow_arm]) for row in rows],
            next_page_token=page_token(f"before:{_named(rows[-1])}") if more else "",
        )

    def _count(self, incarnation: int, target: Target, recorded: Recorded, day: date, cost_usd: float) -> None:
        """Let Route know what was spent: here at once, elsewhere as soon as it is the last that the budget permits."""
        rule, spent_usd = shadow_rule_of(target.shadow), recorded.spent_usd
        if spent_usd is None or rule is None or rule.daily_budget_usd is None:
            return
        self._budgets.learn(day, [incarnation], {incarnation: spent_usd})
        if spent_usd - cost_usd < rule.daily_budget_usd <= spent_usd:
            self._announce([incarnation])


def _row(request: pb.RecordShadowRequest, token: DecisionToken, target: Target, now_us: int) -> ComparisonRow:
    if request.arm_id == target.serving_arm_id:
        raise _no_arm(request.arm_id, "is the arm that answered, which is not mirrored to itself")
    if target.shadow_arm is None:
        raise _no_arm(request.arm_id, f"is no arm of experiment {target.experiment_id!r}")
    rule = shadow_rule_of(target.shadow)
    mode = "off" if rule is None else rule.text
    return ComparisonRow(
        decision_key=token.decision_key,
        shadow_arm=target.shadow_arm,
        serving_arm=token.arm,
        decided_at_us=token.decided_at_us,
        recorded_at_us=now_us,
        unit_hash=None if token.unit_hash == _NO_UNIT else token.unit_hash,
        request_id=request.request_id,
        text_mode=mode,
        prompt=kept_text(request.prompt, rule),
        serving=_answer_row(request.serving, rule),
        shadow=_answer_row(request.shadow, rule),
    )


def kept_text(text: str, rule: ShadowRule | None) -> str | None:
    """Return what a rule lets be kept of a text: all, its beginning, or nothing; without a rule, nothing."""
    if rule is None or rule.text == "off":
        return None
    return text[: rule.text_limit] if rule.text == "truncated" else text


def _answer_row(answer: pb.ModelAnswer, rule: ShadowRule | None) -> AnswerRow:
    call = answer.call
    return AnswerRow(
        text=kept_text(answer.text, rule),
        model=answer.model,
        stop_reason=answer.stop_reason,
        provider_request_id=answer.provider_request_id,
        latency_us=call.latency.ToMicroseconds() if call.HasField("latency") else None,
        input_tokens=call.input_tokens if call.HasField("input_tokens") else None,
        output_tokens=call.output_tokens if call.HasField("output_tokens") else None,
        cost_usd=call.cost_usd if call.HasField("cost_usd") else None,
        error=call.error,
    )


def comparison_message(row: ComparisonRow, serving: Arm, mirrored: Arm) -> pb.Comparison:
    """Return a comparison as the API shows it."""
    message = pb.Comparison(
        decision_key=str(UUID(bytes=row.decision_key)),
        serving_arm_id=serving.arm_id,
        serving_arm_version=serving.version,
        shadow_arm_id=mirrored.arm_id,
        shadow_arm_version=mirrored.version,
        request_id=row.request_id,
        text=f"TEXT_MODE_{row.text_mode.upper()}",
        prompt=row.prompt or "",
        serving=_answer_message(row.serving),
        shadow=_answer_message(row.shadow),
    )
    message.decision_time.FromMicroseconds(row.decided_at_us)
    message.record_time.FromMicroseconds(row.recorded_at_us)
    return message


def _answer_message(row: AnswerRow) -> pb.ModelAnswer:
    call = routing_pb2.CallReport(
        input_tokens=row.input_tokens, output_tokens=row.output_tokens, cost_usd=row.cost_usd, error=row.error
    )
    if row.latency_us is not None:
        call.latency.FromMicroseconds(row.latency_us)
    return pb.ModelAnswer(
        text=row.text or "",
        call=call,
        model=row.model,
        stop_reason=row.stop_reason,
        provider_request_id=row.provider_request_id,
    )


def _versions(definition: Definition, arm_id: str) -> Sequence[int] | None:
    """Return the numbers of every version of an arm; None where no arm is asked for."""
    if not arm_id:
        return None
    numbers = [arm.number for arm in definition.arms if arm.arm_id == arm_id]
    if not numbers:
        raise _no_arm(arm_id, f"is no arm of experiment {definition.experiment_id!r}")
    return numbers


def _no_arm(arm_id: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"arm_id: {arm_id!r} {why}", reason="ARM_NOT_FOUND", metadata={"arm_id": arm_id})


def _named(row: ComparisonRow) -> str:
    return f"{row.decided_at_us}:{row.decision_key.hex()}:{row.shadow_arm}"


def _place(text: str) -> tuple[int, bytes, int] | None:
    """Return where a page begins; None for the first one."""
    if not text:
        return None
    found = _PLACE(text)
    if found is None:
        rule = "is not a token that ListComparisons returned"
        raise InvalidArgumentError.of_field("page_token", rule, reason="INVALID_PAGE_TOKEN")
    return int(found[1]), bytes.fromhex(found[2]), int(found[3])
