"""The table of roles has every method there is: a new RPC cannot be served without an entry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

import router.v1
from router import server
from router.access.keys import ANYONE, ApiKey, Caller
from router.access.roles import IN_HANDLER, METHODS, Role, experiment_of

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every method of every service of the contract, by its full name."""
    for module in pkgutil.iter_modules(router.v1.__path__):
        if module.name.endswith("_pb2"):
            contract = importlib.import_module(f"router.v1.{module.name}").DESCRIPTOR
            for service in contract.services_by_name.values():
                for method in service.methods:
                    yield f"/{service.full_name}/{method.name}", method


def test_every_method_is_in_the_table_and_nothing_else() -> None:
    assert {*dict(methods()), REFLECTION} == set(METHODS)
    assert {name.split("/")[1] for name, _ in methods()} == set(server._SERVICES)


@pytest.mark.parametrize(("name", "method"), list(methods()))
def test_every_experiment_is_where_the_table_says(name: str, method: MethodDescriptor) -> None:
    """A request that names its experiment is checked before its handler runs."""
    path = METHODS[name].experiment
    request = GetMessageClass(method.input_type)()
    named = [field.name for field in method.input_type.fields if field.name == "experiment_id"]
    if named:
        assert path == "experiment_id"
    batched = [field.name for field in method.input_type.fields if field.name == "requests"]
    assert METHODS[name].batch is bool(batched)
    if path == IN_HANDLER:
        return
    *parents, last = path.split(".")
    holder = request
    for parent in parents:
        holder = getattr(holder, parent)
    setattr(holder, last, "support")
    assert experiment_of(request, path) == "support"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("RouterService/Route", "route"),
        ("RouterService/BatchReward", "reward"),
        ("ExperimentService/GetExperiment", "read"),
        ("ExperimentService/StartExperiment", "admin"),
        ("ExperimentService/PromoteRamp", "admin"),
        ("PosteriorService/WatchPosterior", "read"),
        ("InterleaveService/Interleave", "route"),
        ("InterleaveService/Credit", "reward"),
        ("ShadowService/RecordShadow", "reward"),
        ("JudgeService/RecordVerdict", "admin"),
    ],
)
def test_what_the_table_says(name: str, role: str) -> None:
    assert METHODS[f"/router.v1.{name}"].role == role


def test_every_change_of_an_experiment_is_audited() -> None:
    changing = {name for name in METHODS if "/router.v1.ExperimentService/" in name and METHODS[name].role is Role.ADMIN}
    assert len(changing) == 12
    assert changing | {"/router.v1.JudgeService/CreateJudgeRun"} == {name for name, rule in METHODS.items() if rule.audited}


@pytest.mark.parametrize(
    ("has", "may"),
    [
        ({"route"}, {"route"}),
        ({"reward"}, {"reward"}),
        ({"read"}, {"read"}),
        ({"admin"}, {"admin", "read"}),
        ({"route", "admin"}, {"route", "admin", "read"}),
    ],
)
def test_what_a_role_includes(has: set[str], may: set[str]) -> None:
    caller = Caller(ApiKey("0" * 12, "k", bytes(32), frozenset(map(Role, has))))
    assert {role.value for role in Role if caller.may(role)} == may


def test_a_scope_is_the_experiments_that_it_names() -> None:
    caller = Caller(ApiKey("0" * 12, "k", bytes(32), frozenset(Role), frozenset({"a"})))
    assert (caller.reaches("a"), caller.reaches("b"), caller.reaches("")) == (True, False, False)
    assert ANYONE.reaches("b")
