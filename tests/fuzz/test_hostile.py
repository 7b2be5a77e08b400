"""What no client library sends: any frames, bombs, endless headers, forged decision ids; and the same calls for ever."""

from __future__ import annotations

import contextlib
import socket
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from typing import Any

import fuzzing
import grpc
import psycopg
import pytest
import raw_http2
from fuzz_target import FuzzTarget
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from running import experiment

from router.listening import MAX_MESSAGE_BYTES
from router.tokens import TokenCodec, TokenKey
from router.v1 import (
    experiments_pb2,
    experiments_pb2_grpc,
    interleave_pb2,
    interleave_pb2_grpc,
    posteriors_pb2,
    posteriors_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
    shadow_pb2,
    shadow_pb2_grpc,
)

MIB = 1024 * 1024
#: What the allocator and caches may keep; each test would add several times that if the router kept what it is sent.
SLACK = 16 * MIB


@pytest.fixture(autouse=True)
def unharmed(target: FuzzTarget) -> Iterator[None]:
    """Whatever a test did: the router is as well as before."""
    yield
    target.assert_well()


# Memory


@pytest.mark.slow
def test_the_same_calls_again_grow_nothing(target: FuzzTarget) -> None:
    """Claim: after a warm-up, calls of every method, most of them refused, leave nothing behind."""
    known = target.made_anew()
    corpus: list[tuple[Any, bytes]] = []
    for method in fuzzing.methods():
        _collect(corpus, method, known)

    # Besides, one message of a megabyte for each method: unknown fields, which are kept as long as the message is.
    padding = b"\xfa\xff\xff\xff\x0f" + _varint(MIB) + bytes(MIB)
    corpus += [(method, padding) for method in fuzzing.methods()]

    def round_trip() -> None:
        for method, request in corpus:
            target.ask(method, request)

    for _ in range(2):
        round_trip()
    before = target.resident()
    for _ in range(2):
        round_trip()
    sent = 2 * sum(len(request) for _, request in corpus)
    assert sent > 4 * SLACK
    assert target.resident() - before < SLACK


def _collect(corpus: list[tuple[Any, bytes]], method: Any, known: fuzzing.Known) -> None:
    @fuzzing.bounded(4)
    @given(fuzzing.messages(method.input_type, known))
    def collect(request: Message) -> None:
        corpus.append((method, request.SerializeToString()))

    collect()


# Frames

_CONTINUATION = 9
_PATHS = [fuzzing.path_of(method) for method in fuzzing.methods()] + [
    "/grpc.health.v1.Health/Watch",
    "/no.Such/Method",
    "",
    "/",
]
_PAYLOADS = (
    st.binary(max_size=40) | st.sampled_from(_PATHS).map(raw_http2.headers) | st.binary(max_size=20).map(raw_http2.message)
)
_FRAMES = st.builds(
    raw_http2.frame,
    st.sampled_from([*range(11), 0x42, 0xFF]),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0xFF]),
    st.sampled_from([0, 1, 1, 3, 5, 2, 2**31 - 1, 2**32 - 1]),
    _PAYLOADS,
)
_LIES = st.tuples(_FRAMES, st.integers(0, 2**24 - 1)).map(lambda both: struct.pack("!I", both[1])[1:] + both[0][3:])
_CALLS = st.builds(raw_http2.call, st.sampled_from([1, 3, 5]), st.sampled_from(_PATHS), st.binary(max_size=60))


@fuzzing.bounded(60)
@given(st.booleans(), st.lists(_FRAMES | _CALLS | _LIES, min_size=1, max_size=8))
def _send_frames(target: FuzzTarget, greeted: bool, frames: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", target.port), timeout=10) as connection, contextlib.suppress(OSError):
        if greeted:
            connection.sendall(raw_http2.PREFACE + raw_http2.frame(raw_http2.SETTINGS, 0, 0))
        connection.sendall(b"".join(frames))
        connection.shutdown(socket.SHUT_WR)
        # Until it hangs up: whatever it makes of that, it has been made.
        while connection.recv(65_536):
            pass


def test_frames(target: FuzzTarget) -> None:
    _send_frames(target)


def test_continuations_without_end(target: FuzzTarget) -> None:
    """Header blocks may be cut into frames: they are bounded together, however many frames there are."""
    value = b"\x7f\x81\x7c" + b"v" * 16_000  # its length, then what stands there

    before, sent = target.peak(), 0
    with raw_http2.connect(target.port) as connection, contextlib.suppress(OSError):
        connection.settimeout(10)
        connection.sendall(raw_http2.frame(raw_http2.HEADERS, 0, 1, raw_http2.headers(_PATHS[0])))
        while sent < 160 * MIB:  # it may hang up before, and need not
            connection.sendall(raw_http2.frame(_CONTINUATION, 0, 1, b"\0\x07x-%05d" % (sent % 100_000) + value))
            sent += len(value)
    assert target.peak() - before < 4 * SLACK


def test_metadata_without_measure(target: FuzzTarget) -> None:
    call = routing_pb2_grpc.RouterServiceStub(target.channel).Route
    before = target.resident()
    for _ in range(10):
        with pytest.raises(grpc.RpcError) as raised:
            call(routing_pb2.RouteRequest(experiment_id="x"), metadata=[("x-much", "y" * 4 * MIB)], timeout=10)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert target.resident() - before < SLACK


# Bombs


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=["gzip", "deflate"])
def test_a_message_that_grows_when_it_is_unpacked(target: FuzzTarget, compression: grpc.Compression) -> None:
    """128 MiB in 128 KiB."""
    call = target.channel.unary_unary("/router.v1.RouterService/BatchReward", request_serializer=bytes)
    before = target.peak()
    with pytest.raises(grpc.RpcError) as raised:
        call(bytes(8 * MAX_MESSAGE_BYTES), compression=compression, timeout=30)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert target.peak() - before < 4 * MAX_MESSAGE_BYTES


@pytest.mark.parametrize("depth", [100, 5_000, 100_000])
def test_a_message_that_is_nested_without_end(target: FuzzTarget, depth: int) -> None:
    """CreateExperiment: experiment.arms[0].config = {"k": {"k": …}}, all by hand."""
    lengths = [0]
    for _ in range(depth):  # Value.struct_value {fields {key: "k" value: …}}
        inner = lengths[-1]
        entry = 3 + 1 + len(_varint(inner)) + inner
        struct_ = 1 + len(_varint(entry)) + entry
        lengths.append(1 + len(_varint(struct_)) + struct_)
    parts = []
    for inner in reversed(lengths[:-1]):
        entry = 3 + 1 + len(_varint(inner)) + inner
        struct_ = 1 + len(_varint(entry)) + entry
        parts += [b"\x2a", _varint(struct_), b"\x0a", _varint(entry), b"\x0a\x01k\x12", _varint(inner)]
    value = b"".join(parts)
    config = _field(experiments_pb2, "Arm.config", _bytes(1, b"\x0a\x01k" + _bytes(2, value)))
    request = _bytes(1, _bytes(_number("Experiment", "arms"), config))
    call = target.channel.unary_unary("/router.v1.ExperimentService/CreateExperiment", request_serializer=bytes)
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=10)
    status = rpc_status.from_call(raised.value)
    assert status is not None
    assert _reason(status) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _bytes(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(message: str, name: str) -> int:
    return int(experiments_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name[name].number)


def _field(module: Any, path: str, data: bytes) -> bytes:
    arm = experiments_pb2.DESCRIPTOR.message_types_by_name["Experiment"].fields_by_name["arms"].message_type
    return _bytes(int(arm.fields_by_name[path.partition(".")[2]].number), data)


# Decision ids


def _reason(status: status_pb2.Status) -> tuple[str, str]:
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return next(code.name for code in grpc.StatusCode if code.value[0] == status.code), info.reason


def _forgeries(token: str, target: FuzzTarget) -> Iterator[str]:
    """Every bit flipped, every cut, every other spelling of the same bytes, and other keys."""
    raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield urlsafe_b64encode(changed).decode().rstrip("=")
    yield from (token[:length] for length in range(1, len(token)))
    yield from (token[start:] for start in range(1, len(token)))
    yield from (urlsafe_b64encode(raw[:length]).decode().rstrip("=") for length in range(1, len(raw)))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # The last character has bits to spare: only one of those that decode to the same bytes is canonical.
    yield from (token[:-1] + character for character in alphabet if character != token[-1])
    yield from (token + more for more in ("=", "==", "A", " ", "\n", "\0", token))
    yield from (more + token for more in ("=", "A", " ", "\n"))
    yield from (token[:n] + "\n" + token[n:] for n in range(1, len(token), 7))
    for old, new in (("-", "+"), ("_", "/"), ("A", "А"), ("A", "Ａ")):
        if old in token:
            yield token.replace(old, new)
    with psycopg.connect(target.url) as connection:
        ((key_id, secret),) = connection.execute("SELECT key_id, secret FROM token_keys").fetchall()
    genuine = TokenCodec(TokenKey(key_id, bytes(secret)), {})
    content = genuine.open(token)
    assert genuine.mint(content)[0].decode() == token
    for other in (TokenKey(key_id, b"x" * 32), TokenKey(key_id, bytes(32)), TokenKey(key_id ^ 1, bytes(secret))):
        yield TokenCodec(other, {}).mint(content)[0].decode()


def test_forged_decision_ids(target: FuzzTarget) -> None:
    experiments = experiments_pb2_grpc.ExperimentServiceStub(target.channel)
    experiments.CreateExperiment(experiments_pb2.CreateExperimentRequest(experiment=experiment("forged")))
    experiments.StartExperiment(experiments_pb2.StartExperimentRequest(experiment_id="forged"))
    routing = routing_pb2_grpc.RouterServiceStub(target.channel)
    token = routing.Route(routing_pb2.RouteRequest(experiment_id="forged", segment="s", unit_id="u")).decision_id
    forgeries = [forged for forged in dict.fromkeys(_forgeries(token, target)) if forged != token]
    assert len(forgeries) > 1_000
    for chunk in _chunks(forgeries, 2_000):
        requests = [routing_pb2.RewardRequest(decision_id=forged, event_id="e", reward=1.0) for forged in chunk]
        results = routing.BatchReward(routing_pb2.BatchRewardRequest(requests=requests)).results
        for forged, result in zip(chunk, results, strict=True):
            assert result.HasField("error"), forged
            code, reason = _reason(result.error)
            assert code == "INVALID_ARGUMENT", forged
            assert reason.startswith("DECISION_ID_") or len(forged) > 512, forged
            assert not fuzzing.leaks_in(result.error.message)
    read = posteriors_pb2_grpc.PosteriorServiceStub(target.channel)
    posterior = read.GetPosterior(posteriors_pb2.GetPosteriorRequest(experiment_id="forged"))
    assert [arm.n for arm in posterior.arms] == [0, 0]
    genuine = routing_pb2.RewardRequest(decision_id=token, event_id="e", reward=1.0)
    assert routing.Reward(genuine).status == routing_pb2.STATUS_APPLIED


def test_forged_ids_elsewhere(target: FuzzTarget) -> None:
    """Every other method that takes a token: an arbitrary tenth of the forgeries."""
    known = target.made_anew()
    answer = shadow_pb2.ModelAnswer(text="x", call=routing_pb2.CallReport())
    recorded = known.values["decision_id"][-1]
    shadowing = shadow_pb2_grpc.ShadowServiceStub(target.channel)
    for forged in list(_forgeries(recorded, target))[::10]:
        request = shadow_pb2.RecordShadowRequest(decision_id=forged, arm_id="s", serving=answer, shadow=answer)
        _is_forged(shadowing.RecordShadow, request)
    interleaving = interleave_pb2_grpc.InterleaveServiceStub(target.channel)
    (mixed,) = known.values["interleaving_id"]
    changed = mixed[:10] + ("A" if mixed[10] != "A" else "B") + mixed[11:]
    for forged in [mixed[:-1], mixed + "A", changed, mixed.swapcase(), "=" + mixed, recorded]:
        _is_forged(interleaving.Credit, interleave_pb2.CreditRequest(interleaving_id=forged, positions=[0]))
    # An interleaving's id is no decision's.
    routing = routing_pb2_grpc.RouterServiceStub(target.channel)
    _is_forged(routing.Reward, routing_pb2.RewardRequest(decision_id=mixed, event_id="e", reward=1.0))


def _is_forged(call: Any, request: Message) -> None:
    try:
        pytest.fail(f"{request} was answered with {call(request, timeout=10)}")
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
    assert status is not None
    code, reason = _reason(status)
    assert (code, reason.startswith("DECISION_ID_")) == ("INVALID_ARGUMENT", True), request


def _chunks(found: list[str], size: int) -> Iterable[list[str]]:
    return (found[start : start + size] for start in range(0, len(found), size))
