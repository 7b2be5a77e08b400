"""Messages for any method, made from its descriptor: mostly what the declared rules permit, with one thing or all wrong.

Values that exist (ids, tokens, whole definitions) come in under the names of the fields that hold them, so that calls get
further than the first check. A method or a field that is added to the proto is covered without being named here.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from definitions import experiments
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from router.buf.validate import validate_pb2
from router.v1 import experiments_pb2, interleave_pb2, judge_pb2, posteriors_pb2, routing_pb2, shadow_pb2

PROTO = Path(__file__).resolve().parents[2] / "proto"
#: Bytes that repetition makes of a message at most.
_LARGEST = 2**20
_CODES = {code.name for code in grpc.StatusCode}
_MODULES = (routing_pb2, experiments_pb2, posteriors_pb2, interleave_pb2, judge_pb2, shadow_pb2)


def bounded(examples: int) -> settings:
    """Settings of a fuzz test: the same examples in every run, or other and more ones where FUZZ_FACTOR says so."""
    factor = int(os.environ.get("FUZZ_FACTOR", "0"))
    return settings(
        max_examples=examples * max(1, factor),
        derandomize=not factor,
        print_blob=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


# Methods


def methods() -> list[MethodDescriptor]:
    """Every method of every service of the contract."""
    services = [service for module in _MODULES for service in module.DESCRIPTOR.services_by_name.values()]
    return [method for service in services for method in service.methods]


def path_of(method: MethodDescriptor) -> str:
    """How a call names the method."""
    return f"/{method.containing_service.full_name}/{method.name}"


@cache
def _comments(file: str) -> dict[str, str]:
    """The comment above each method of a proto file, on one line."""
    text = (PROTO / file).read_text()
    found = re.finditer(r"((?:^  //.*\n)+)  rpc (\w+)", text, re.MULTILINE)
    return {one[2]: " ".join(one[1].replace("//", " ").split()) for one in found}


def documented_codes(method: MethodDescriptor) -> set[str]:
    """Return the status codes that the comment of the method names in its proto file."""
    comments = _comments(method.containing_service.file.name)
    comment = comments[method.name]
    if other := re.search(r"errors as (\w+)\.", comment):
        comment = comments[other[1]]
    codes = _CODES & set(re.findall(r"[A-Z_]+", comment.partition("Errors:")[2]))
    assert codes, f"{method.full_name} documents no errors"
    return codes


# Values that exist


class Known:
    """What exists in the router that is called."""

    def __init__(self) -> None:
        #: By the name of the field that holds it.
        self.values: dict[str, list[Any]] = {}
        #: Messages to begin with, by their full names.
        self.samples: dict[str, list[Message]] = {}
        #: Experiments that route, if nobody stopped them since.
        self.running: list[str] = []

    def __repr__(self) -> str:
        return "known"

    def add(self, *names: str, values: Sequence[Any]) -> None:
        """Offer values for fields of these names."""
        for name in names:
            self.values.setdefault(name, []).extend(values)

    def add_sample(self, message: Message) -> None:
        """Offer a message wherever one of its type is needed."""
        self.samples.setdefault(message.DESCRIPTOR.full_name, []).append(message)


# Single values

_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_REALS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_AWKWARD = [
    "",
    "\0",
    "a\0b",
    "a\nb",
    "\x7f",
    "ü" * 128,
    "漢" * 256,
    "𝔘",
    "\u202e",
    "'; --",
    "%s",
    "{}",
    "../..",
    "a b",
    "-1",
]
_LONG = st.sampled_from([64, 65, 128, 129, 256, 257, 512, 513, 1024, 1025, 100_001]).flatmap(
    lambda length: st.sampled_from("xü\0").map(lambda character: character * length)
)
_WILD_TEXT = st.sampled_from(_AWKWARD) | _LONG | st.text(st.characters(codec="utf-8"), max_size=20)
_TAME_TEXT = st.sampled_from(["a", "b", "x-1", "Z9", "s"])
_WILD_REALS = (
    st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1e308, -1.0, 1.5, 1e18]) | st.floats()
)
_TAME_REALS = [0.0, 0.01, 0.25, 0.5, 1.0, 2.0, 10.0]
_TAME_INTEGERS = [0, 1, 2, 3, 10, 100]


def _tame_number(found: FieldDescriptor, candidates: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Numbers within the declared bounds, where one of the candidates is."""
    rules = _rules(found)
    kind = rules.WhichOneof("type")
    bounds = getattr(rules, kind) if kind else None

    def fits(value: Any) -> bool:
        checks = {"gt": value.__gt__, "gte": value.__ge__, "lt": value.__lt__, "lte": value.__le__}
        return bounds is None or all(
            check(getattr(bounds, name))
            for name, check in checks.items()
            if name in bounds.DESCRIPTOR.fields_by_name and bounds.HasField(name)
        )

    return st.sampled_from([value for value in candidates if fits(value)] or list(candidates))


def _rules(found: FieldDescriptor) -> validate_pb2.FieldRules:
    rules: validate_pb2.FieldRules = found.GetOptions().Extensions[validate_pb2.field]
    return rules


def _scalar(found: FieldDescriptor, known: Known, *, wild: bool) -> st.SearchStrategy[Any]:
    """Values of a field that is no message."""
    kind = found.cpp_type
    existing = [
        v for v in known.values.get(found.name, ()) if isinstance(v, str) == (kind == FieldDescriptor.CPPTYPE_STRING)
    ]
    offered = st.sampled_from(existing) if existing else None
    if kind == FieldDescriptor.CPPTYPE_STRING and found.type == FieldDescriptor.TYPE_STRING:
        base = _WILD_TEXT if wild else _TAME_TEXT if offered is None else offered
    elif kind == FieldDescriptor.CPPTYPE_STRING:
        base = st.binary(max_size=64)
    elif kind == FieldDescriptor.CPPTYPE_BOOL:
        base = st.booleans()
    elif kind == FieldDescriptor.CPPTYPE_ENUM:
        numbers = [value.number for value in found.enum_type.values]
        base = st.sampled_from([*numbers, -1, 7, 99, 2**31 - 1, -(2**31)] if wild else numbers[1:] or numbers)
    elif kind in _REALS:
        base = _WILD_REALS if wild else _tame_number(found, _TAME_REALS)
    else:
        low, high = _BOUNDS[kind]
        extremes = st.sampled_from([low, low + 1, high - 1, high, 0, 1, 1000, 1001, 100_001]) | st.integers(low, high)
        tame = _tame_number(found, _TAME_INTEGERS) if offered is None else offered
        base = extremes if wild else tame
    if wild and offered is not None:
        # What exists, but not quite.
        base = base | offered.map(lambda value: value[:-1] if isinstance(value, str) else value + 1)
    return base


def _nested(depth: int, leaf: Any) -> Any:
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"k": leaf}
    return leaf


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(_AWKWARD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_AWKWARD), inner, max_size=3),
    max_leaves=8,
)
_DEEP = st.sampled_from([10, 30, 36]).flatmap(lambda depth: st.sampled_from([1, "x"]).map(lambda leaf: _nested(depth, leaf)))
_SECONDS = [-(2**63), -62_135_596_801, -1, 0, 1, 1_700_000_000, 253_402_300_799, 253_402_300_800, 315_576_000_001, 2**63 - 1]
_NANOS = [-(2**31), -1, 0, 1, 999_999_999, 1_000_000_000, 2**31 - 1]


@st.composite
def _well_known(draw: st.DrawFn, name: str, wild: bool) -> Message:
    """Times and free structures, which have no rules of their own to be drawn from."""
    cls = GetMessageClass(_WELL_KNOWN[name])
    if name == "google.protobuf.Struct":
        struct: Any = cls()
        struct.update({"k": draw(_JSON | _DEEP if wild else st.sampled_from([1, "x", True]))})
        return struct  # type: ignore[no-any-return]
    if wild:
        return cls(seconds=draw(st.sampled_from(_SECONDS)), nanos=draw(st.sampled_from(_NANOS)))
    seconds = [1_700_000_000, 1_790_000_000, 1_893_456_000] if name.endswith("Timestamp") else [1, 60, 3600, 86_400]
    return cls(seconds=draw(st.sampled_from(seconds)))


_WELL_KNOWN = {
    descriptor.full_name: descriptor
    for descriptor in (
        shared.message_type
        for module in _MODULES
        for message in module.DESCRIPTOR.message_types_by_name.values()
        for shared in message.fields
        if shared.message_type is not None
    )
    if descriptor.full_name in ("google.protobuf.Struct", "google.protobuf.Timestamp", "google.protobuf.Duration")
}


# Messages


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, known: Known, *, wild: bool | None = None, depth: int = 0) -> Message:
    """Messages of a type. `wild`: whether every field may break its rules; None: one field may, or all, or none."""
    if descriptor.full_name in _WELL_KNOWN:
        return draw(_well_known(descriptor.full_name, bool(wild)))
    everything = draw(st.sampled_from([False, False, False, True])) if wild is None else wild
    names = [found.name for found in descriptor.fields]
    bad = draw(st.sampled_from([None, *names])) if wild is None and not everything else None
    message = draw(_begun(descriptor, known, everything))
    chosen = {group.name: draw(st.sampled_from(list(group.fields))).name for group in descriptor.oneofs}
    sampled = message.ByteSize() > 0
    for found in descriptor.fields:
        group = found.containing_oneof
        if group is not None and chosen[group.name] != found.name and not everything:
            continue
        is_bad = everything or found.name == bad
        if found.name != bad and (depth > 3 or sampled or not (_needed(found, known) or draw(st.booleans()))):
            continue
        _fill(draw, message, found, known, is_bad, depth)
    return message


def plainest(descriptor: Descriptor, known: Known) -> Iterator[Message]:
    """The shortest valid messages: what a call cannot do without, in every combination of what exists."""
    samples = known.samples.get(descriptor.full_name)
    if samples:
        yield from samples
        return
    options: list[list[Any]] = []
    needed = [found for found in descriptor.fields if _needed(found, known)]
    first_of_oneof = {group.fields[0].name for group in descriptor.oneofs}
    needed = [found for found in needed if found.containing_oneof is None or found.name in first_of_oneof]
    for found in needed:
        if found.message_type is not None:
            values: list[Any] = list(itertools.islice(plainest(found.message_type, known), 12))
        else:
            values = known.values.get(found.name, [1 if found.cpp_type != FieldDescriptor.CPPTYPE_STRING else "x"])
        options.append([[value] for value in values] if found.is_repeated else values)
    for combination in itertools.islice(itertools.product(*options), 200):
        yield GetMessageClass(descriptor)(**{f.name: value for f, value in zip(needed, combination, strict=True)})


@st.composite
def _begun(draw: st.DrawFn, descriptor: Descriptor, known: Known, wild: bool) -> Message:
    """What a message begins as: one that exists, any valid definition, or nothing."""
    begun = GetMessageClass(descriptor)()
    options: list[st.SearchStrategy[Message]] = []
    if samples := known.samples.get(descriptor.full_name):
        options.append(st.sampled_from(samples))
    if descriptor is experiments_pb2.Experiment.DESCRIPTOR:
        options += [experiments()] * 2
    if options and not wild:
        begun.CopyFrom(draw(st.one_of(options)))
    return begun


def _needed(found: FieldDescriptor, known: Known) -> bool:
    """Whether a call gets nowhere without this field."""
    rules = _rules(found)
    return (
        rules.required
        or rules.string.min_len > 0
        or rules.repeated.min_items > 0
        or found.containing_oneof is not None
        or (found.name in known.values and found.name.endswith("_id"))
    )


def _fill(draw: st.DrawFn, message: Message, found: FieldDescriptor, known: Known, wild: bool, depth: int) -> None:
    """Give a field a value, or several."""
    target = getattr(message, found.name)
    is_map = found.message_type is not None and found.message_type.GetOptions().map_entry
    if is_map:
        key, value = found.message_type.fields_by_name["key"], found.message_type.fields_by_name["value"]
        for _ in range(draw(st.sampled_from([0, 1, 2, 33, 101] if wild else [1, 2]))):
            name = draw(_scalar(key, known, wild=wild))
            if value.message_type is None:
                target[name] = draw(_scalar(value, known, wild=wild))
            else:
                target[name].CopyFrom(draw(messages(value.message_type, known, wild=wild, depth=depth + 1)))
    elif found.is_repeated:
        if found.message_type is not None:
            one = draw(messages(found.message_type, known, wild=wild, depth=depth + 1))
            most = _LARGEST // max(1, one.ByteSize())
            target.extend([one] * min(most, draw(st.sampled_from([0, 1, 1, 2, 101, 1_001] if wild else [1, 1, 2]))))
            if not wild:
                target.append(draw(messages(found.message_type, known, wild=wild, depth=depth + 1)))
        else:
            values = draw(st.lists(_scalar(found, known, wild=wild), min_size=1, max_size=3, unique=not wild))
            target.extend(values * draw(st.sampled_from([1, 1, 40])) if wild else values)
    elif found.message_type is not None:
        getattr(message, found.name).CopyFrom(draw(messages(found.message_type, known, wild=wild, depth=depth + 1)))
    else:
        setattr(message, found.name, draw(_scalar(found, known, wild=wild)))


def statuses_in(message: Message) -> Iterator[Any]:
    """Every google.rpc.Status in a reply: how items of a batch fail."""
    if message.DESCRIPTOR.full_name == "google.rpc.Status":
        yield message
        return
    for found, value in message.ListFields():
        if found.message_type is None or found.message_type.GetOptions().map_entry:
            continue
        for one in value if found.is_repeated else [value]:
            yield from statuses_in(one)


def leaks_in(text: str) -> Mapping[str, str]:
    """What a text tells of the inside: a word for what it is, and where it stands."""
    return {name: found[0] for name, pattern in _LEAKS.items() if (found := re.search(pattern, text))}


_LEAKS = {
    "a traceback": r"Traceback \(most recent|File \"[^\"]+\", line \d+",
    "a file": r"/\w+/\w+/[\w/]+\.py|site-packages|\.sqlite|\.journal\b|\.events\b",
    "SQL": r"\b(SELECT|INSERT INTO|DELETE FROM|UPDATE)\b.*\b(FROM|WHERE|SET|VALUES)\b|\bpg_\w+|SQLSTATE",
    "a constraint": r"violates \w+ constraint",
    "a driver": r"psycopg|sqlalchemy|asyncpg|libpq",
    "an object": r"<[\w.]+ (object|at) |object at 0x",
    "a URL with a password": r"postgres(ql)?://",
}
