"""A stand-in for the router in users' own tests: in process, without a server, a database or a network.

    fake = FakeRouter({"support-model": ["haiku", "sonnet"]})
    answer_question(router=fake)                          # FakeRouter is a RouterClient; fake.aio an AsyncRouterClient
    assert fake.decisions[0].experiment_id == "support-model"
    assert fake.rewards[0].signal is Signal.TASK_COMPLETED

Requests go through the real client and the rules of the real contract, so that what the router would refuse fails in
the test too. Nothing is learned: arms are drawn uniformly from a seed, or chosen by the test.
"""

from router.testing._router import FakeRouter
from router.testing._values import FakeComparison, FakeExperiment, FakeReward

__all__ = ["FakeComparison", "FakeExperiment", "FakeReward", "FakeRouter"]
