"""The echo: a bare grpcio server that the router is compared with.

It runs as the router does (grpc.aio on uvloop, one process a worker, the same channel options), parses the same requests
and on every call builds a reply of the same size and shape from constants, with protobuf's ordinary constructors. It has
no interceptor and does nothing else. The one part that is not built anew is the arm's `config`: protobuf fills a Struct in
interpreted Python, which a server that cares would do once.

    python -m benchmarks.echo [--mode aio|asyncio|threads] [--workers N]

prints the port once it answers, and ends with its standard input.
"""

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct

from benchmarks.experiment import ARM_IDS, CONFIG, EXPERIMENT, MODELS
from router.v1 import routing_pb2 as pb
from router.v1 import types_pb2

#: As long as a real decision id without a segment.
_DECISION_ID = "A" * 132
_CONFIG = Struct()
_CONFIG.update(CONFIG)
_PROPENSITIES = (0.02, 0.03, 0.05, 0.07, 0.11, 0.13, 0.17, 0.19, 0.23)
_OPTIONS = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1024),
)


def route_reply() -> pb.RouteResponse:
    """Build the reply to any RouteRequest."""
    return pb.RouteResponse(
        decision_id=_DECISION_ID,
        experiment_id=EXPERIMENT,
        arm=pb.RoutedArm(arm_id=ARM_IDS[8], model=MODELS[8], config=_CONFIG),
        propensity=0.23,
        allocation=[
            types_pb2.ArmProbability(arm_id=arm_id, probability=p) for arm_id, p in zip(ARM_IDS, _PROPENSITIES, strict=True)
        ],
        policy_version=1234,
        reason=pb.REASON_SAMPLED,
    )


def reward_reply() -> pb.RewardResponse:
    """Build the reply to any RewardRequest."""
    return pb.RewardResponse(status=pb.STATUS_APPLIED, arm_id=ARM_IDS[8])


async def _route(request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
    return route_reply()


async def _reward(request: pb.RewardRequest, context: Any) -> pb.RewardResponse:
    return reward_reply()


def _route_in_thread(request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
    return route_reply()


def _reward_in_thread(request: pb.RewardRequest, context: Any) -> pb.RewardResponse:
    return reward_reply()


def _handlers(route: Any, reward: Any) -> grpc.GenericRpcHandler:
    """Do what the generated `add_RouterServiceServicer_to_server` does, for two of its methods."""
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Route": grpc.unary_unary_rpc_method_handler(route, pb.RouteRequest.FromString, pb.RouteResponse.SerializeToString),
        "Reward": grpc.unary_unary_rpc_method_handler(
            reward, pb.RewardRequest.FromString, pb.RewardResponse.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler("router.v1.RouterService", methods)


async def _serve_aio(address: str) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_handlers(_route, _reward),))
    port = server.add_insecure_port(address)
    await server.start()
    print(port, flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    await server.stop(0)


def _serve_threads(address: str) -> None:
    server = grpc.server(ThreadPoolExecutor(8), options=_OPTIONS)
    server.add_generic_rpc_handlers((_handlers(_route_in_thread, _reward_in_thread),))
    port = server.add_insecure_port(address)
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0).wait()


def _supervise(mode: str, workers: int) -> None:
    """Run several, on one port, as the router's supervisor does."""
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(socket.socket())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port = str(holder.getsockname()[1])
        command = [sys.executable, "-m", "benchmarks.echo", "--mode", mode, "--port", port]
        for _ in range(workers):
            # They end when this process, and with it their standard input, does.
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
            stack.enter_context(process)
            assert process.stdout is not None, "asked for above"
            process.stdout.readline()
        print(port, flush=True)
        sys.stdin.read()


def main(arguments: Sequence[str]) -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mode", choices=("aio", "asyncio", "threads"), default="aio")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.workers > 1:
        _supervise(options.mode, options.workers)
        return
    address = f"127.0.0.1:{options.port}"
    if options.mode == "threads":
        _serve_threads(address)
        return
    try:
        import uvloop
    except ImportError:  # a platform without it
        uvloop = None
    if uvloop is None or options.mode == "asyncio":
        asyncio.run(_serve_aio(address))
    else:
        uvloop.run(_serve_aio(address))


if __name__ == "__main__":
    main(sys.argv[1:])
