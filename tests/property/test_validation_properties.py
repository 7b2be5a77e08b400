"""The quick look at requests never lets pass what the declared rules refuse."""

from hypothesis import example, given
from hypothesis import strategies as st
from protovalidate import Validator

from router.errors import InvalidArgumentError
from router.v1 import routing_pb2, types_pb2
from router.validation import validate

DECLARED = Validator()
ids = (
    st.text("aZ9._:/@- \x1f\x7f\x00\nüß漢", max_size=8)
    | st.text(max_size=6)
    | st.integers(120, 300).map("x".__mul__)
    | st.integers(120, 130).map("ü".__mul__)
)
routes = st.builds(
    routing_pb2.RouteRequest,
    experiment_id=ids,
    unit_id=ids,
    session_id=ids,
    turn_id=ids,
    request_id=ids,
    eligible_arm_ids=st.lists(ids, max_size=2),
    segment=ids,
    force_arm_id=ids,
    prompt_fingerprint=ids,
    prompt_similarity=st.none() | st.floats(),
)
rewards = st.builds(
    routing_pb2.RewardRequest,
    decision_id=ids | st.integers(500, 520).map("x".__mul__),
    event_id=ids,
    metadata=st.dictionaries(ids, ids, max_size=2),
) | st.builds(
    routing_pb2.RewardRequest,
    decision_id=st.just("x"),
    event_id=st.just("e"),
    signal=st.integers(-3, 12),
)
rewards = rewards | st.builds(routing_pb2.RewardRequest, decision_id=st.just("x"), event_id=st.just("e"), reward=st.floats())
plain = st.text("aZ9._:/@-", min_size=1, max_size=6).filter(lambda text: text[0].isalnum())


def agrees(message) -> None:
    expected = not DECLARED.collect_violations(message)
    try:
        validate(message)
    except InvalidArgumentError:
        passed = False
    else:
        passed = True
    assert passed == expected, message


@given(routes | st.builds(routing_pb2.RouteRequest, experiment_id=plain, unit_id=ids, session_id=ids))
@example(routing_pb2.RouteRequest(experiment_id="a\n"))
@example(routing_pb2.RouteRequest(experiment_id="a", unit_id="b\x1fc"))
@example(routing_pb2.RouteRequest(experiment_id="a\x1fb", unit_id="c"))
@example(routing_pb2.RouteRequest(experiment_id="a", prompt_similarity=7))
def test_routes(request):
    agrees(request)


@given(rewards)
@example(routing_pb2.RewardRequest(decision_id="x", event_id="e"))
@example(routing_pb2.RewardRequest(decision_id="x", event_id="e", signal=0))
@example(routing_pb2.RewardRequest(decision_id="x", event_id="e", reward=float("nan")))
@example(routing_pb2.RewardRequest(decision_id="x", event_id="e\n", signal=types_pb2.SIGNAL_THUMBS_UP))
def test_rewards(request):
    agrees(request)
