"""Every method of the contract against a live router: structured messages of every kind, and any bytes at all.

However bad the request: the call ends in a status that its method documents, never in INTERNAL or UNKNOWN; the process
lives, answers others, logs no fault, and tells nothing of its inside.
"""

from __future__ import annotations

import fuzzing
import pytest
from fuzz_target import FuzzTarget
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given
from hypothesis import strategies as st

METHODS = fuzzing.methods()


def test_every_service_is_walked(target: FuzzTarget) -> None:
    served = ProtoReflectionDescriptorDatabase(target.channel).get_services()
    assert {name for name in served if name.startswith("router.")} == {m.containing_service.full_name for m in METHODS}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_structured_messages(target: FuzzTarget, method: MethodDescriptor) -> None:
    known = target.known()

    @fuzzing.bounded(20)
    @given(fuzzing.messages(method.input_type, known))
    def calls(request: Message) -> None:
        target.ask(method, request.SerializeToString())

    calls()
    target.assert_well()
    # Messages that are refused at the first check are worth little: some must have got through.
    answered = target.codes[method.full_name]
    for request in () if answered["OK"] else fuzzing.plainest(method.input_type, target.made_anew()):
        if target.ask(method, request.SerializeToString()):
            break
    assert answered["OK"], answered


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bytes(target: FuzzTarget, method: MethodDescriptor) -> None:
    """Random bytes, and valid messages with bytes changed, cut out, doubled or put in."""
    known = target.known()
    valid = fuzzing.messages(method.input_type, known, wild=False).map(lambda message: message.SerializeToString())

    @fuzzing.bounded(10)
    @given(st.binary(max_size=300) | mutated(valid))
    def calls(request: bytes) -> None:
        target.ask(method, request)

    calls()
    target.assert_well()


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of which some are not what they were."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        kind = draw(st.sampled_from(["flip", "cut", "double", "insert", "end"]))
        if kind == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[start:end]
        elif kind == "double":
            data[start:start] = data[start:end] * 3
        elif kind == "insert":
            data[start:start] = draw(st.binary(max_size=12))
        else:
            del data[start:]
    return bytes(data)
