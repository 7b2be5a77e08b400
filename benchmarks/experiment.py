"""The experiment that everything is measured on, and prebuilt requests for it.

Nine arms, named after the nine models of the demo's table, Thompson Sampling, one draw a request.
"""

import random
from collections.abc import Iterable, Sequence
from functools import cache

from benchmarks.h2 import framed
from router.demo.data import load
from router.v1 import experiments_pb2, types_pb2
from router.v1 import routing_pb2 as pb

EXPERIMENT = "bench"
_TABLE = load(9)
ARM_IDS = _TABLE.arm_ids
MODELS = _TABLE.models
CONFIG = {"max_tokens": 1024, "temperature": 0.7}
ROUTE = "/router.v1.RouterService/Route"
BATCH_ROUTE = "/router.v1.RouterService/BatchRoute"
REWARD = "/router.v1.RouterService/Reward"
BATCH_REWARD = "/router.v1.RouterService/BatchReward"
#: Different requests that a load sends in turn.
REQUESTS = 4_096
#: Events in a call where a producer sends them as they come, in small batches.
REWARDS_A_CALL = 10


def definition(experiment_id: str = EXPERIMENT, arms: int = len(ARM_IDS)) -> experiments_pb2.Experiment:
    """Return an experiment of this many arms."""
    message = experiments_pb2.Experiment(experiment_id=experiment_id)
    for i in range(arms):
        known = i < len(ARM_IDS)
        arm = message.arms.add(arm_id=ARM_IDS[i] if known else f"arm-{i}", model=MODELS[i] if known else f"model-{i}")
        arm.role = types_pb2.ROLE_CONTROL if i == 0 else types_pb2.ROLE_CHALLENGER
        arm.config.update(CONFIG)
    return message


@cache
def route_requests(seed: int, experiment_ids: tuple[str, ...] = (EXPERIMENT,)) -> tuple[pb.RouteRequest, ...]:
    """Return requests of different users in different sessions, as many for each experiment."""
    rng = random.Random(f"{seed} route")  # noqa: S311 - data for a load
    requests = [
        pb.RouteRequest(
            experiment_id=experiment_ids[i % len(experiment_ids)],
            unit_id=f"user-{rng.randrange(10**8):08d}",
            session_id=f"session-{rng.getrandbits(64):016x}",
        )
        for i in range(max(REQUESTS, len(experiment_ids)))
    ]
    rng.shuffle(requests)
    return tuple(requests)


def route_messages(requests: Iterable[pb.RouteRequest]) -> list[bytes]:
    """Return requests as they travel, one a call."""
    return [framed(request.SerializeToString()) for request in requests]


def batch_route_messages(seed: int, size: int) -> list[bytes]:
    """Return batches of the requests."""
    requests = route_requests(seed)
    return [
        framed(pb.BatchRouteRequest(requests=requests[i : i + size]).SerializeToString())
        for i in range(0, len(requests) - size + 1, size)
    ]


def reward_requests(decision_ids: Sequence[str], seed: int) -> list[pb.RewardRequest]:
    """Return one numeric event for each decision; six in ten are a success."""
    rng = random.Random(f"{seed} reward")  # noqa: S311 - data for a load
    return [
        pb.RewardRequest(decision_id=decision_id, event_id=f"event-{i:08d}", reward=float(rng.random() < 0.6))
        for i, decision_id in enumerate(decision_ids)
    ]


def reward_messages(requests: Iterable[pb.RewardRequest]) -> list[bytes]:
    """Return the events as they travel, one a call."""
    return [framed(request.SerializeToString()) for request in requests]


def batch_reward_messages(requests: Sequence[pb.RewardRequest], size: int) -> list[bytes]:
    """Return the events as they travel, `size` a call; a last batch that is not full is left out."""
    whole = len(requests) // size * size
    return [
        framed(pb.BatchRewardRequest(requests=requests[i : i + size]).SerializeToString()) for i in range(0, whole, size)
    ]


def reward_after(reply: bytes, tail: bytes) -> bytes:
    """Return the framed RewardRequest for the decision of a RouteResponse, without parsing either.

    Both messages begin with `decision_id` as field 1, so its bytes are taken over as they are.
    """
    assert reply[0] == 0x0A, "a RouteResponse begins with its decision id"
    size, position = reply[1], 2
    if size & 0x80:
        size, position = size & 0x7F | reply[2] << 7, 3
    return framed(reply[: position + size] + tail)


def reward_tails(seed: int, count: int = REQUESTS) -> list[bytes]:
    """Return what follows the decision id in RewardRequests."""
    return [request.SerializeToString() for request in reward_requests([""] * count, seed)]
