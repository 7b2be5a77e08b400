"""Checks of running routers: the one that --server names, its certificate, and what each says at its metrics endpoint."""

import calendar
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.cli.calls import connected
from router.cli.doctor.findings import Finding, Level
from router.storage import checkup
from router.storage.connecting import DatabaseUrl, connect
from router.tls import CertificateError, TlsFiles, read_files

_TIMEOUT_S = 3.0
_SOON_S = 21 * 86_400.0
_VERY_SOON_S = 3 * 86_400.0
_STALE_S = 10.0
#: Versions move while they are read: one that stays behind for so long is not on its way.
_CATCH_UP_S = 5.0
_SAMPLE = re.compile(r"^(bandit_router_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_EXPERIMENT = re.compile(r'experiment="((?:[^"\\]|\\.)*)"')


def server(address: str) -> Iterator[Finding]:
    """Whether a router answers there."""
    with connected(address) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            name = error.code().name
            remedy = "start one with `bandit-router serve`; with TLS, give --tls-ca"
            yield Finding("server", "warning", f"no router answers on {address} ({name})", remedy)
            return
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    if reply.status == health_pb2.HealthCheckResponse.SERVING:
        yield Finding("server", "ok", f"{address} is {status}")
    else:
        yield Finding("server", "problem", f"{address} is {status}: it drains", "wait for its successor, or start it again")


def certificate(files: TlsFiles) -> Iterator[Finding]:
    """Whether the files can be used, and for how long."""
    try:
        read_files(files)
    except CertificateError as error:
        remedy = (
            "put the certificate and the key that belongs to it in place: a running router keeps its old ones until then"
        )
        yield Finding("certificate", "problem", str(error), remedy)
        return
    for path in (files.cert, files.client_ca):
        if path:
            yield _valid_until(path)


def _valid_until(path: str) -> Finding:
    """The first certificate of a file that ends."""
    ends = []
    for pem in re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", Path(path).read_text(), re.DOTALL):
        ends.append(_not_after(ssl.PEM_cert_to_DER_cert(pem)))
    left_s = min(ends) - time.time()
    until = time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(min(ends)))
    remedy = "replace the files: routers read them again at the next handshake, docs/operations.md#certificate-expires"
    if left_s <= 0:
        return Finding("certificate", "problem", f"{path} expired on {until}: clients refuse it", remedy)
    level: Level = "problem" if left_s < _VERY_SOON_S else "warning" if left_s < _SOON_S else "ok"
    return Finding("certificate", level, f"{path} is valid until {until}", "" if level == "ok" else remedy)


_TIMES = re.compile(rb"\x30.(\x17\x0d(\d{12}Z)|\x18\x0f(\d{14}Z))(\x17\x0d(\d{12}Z)|\x18\x0f(\d{14}Z))", re.DOTALL)


def _not_after(der: bytes) -> float:
    """When a certificate ends. Its `Validity` is a sequence of two times, in a form that nothing else in it has.

    The library shows the contents of certificates only after a handshake that trusts them, and so never of an expired one.
    """
    found = _TIMES.search(der)
    if found is None:
        raise OSError(0, "a certificate without a period of validity")
    short, long = found[5], found[6]
    # RFC 5280: two digits stand for the years 1950 to 2049.
    text = long.decode() if long else ("20" if short < b"50" else "19") + short.decode()
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def metrics(endpoint: str) -> Iterator[Finding]:
    """What a service says of itself: readiness, workers, stale policies."""
    values = _read(endpoint)
    if isinstance(values, str):
        remedy = "give the address of --metrics-listen; that it answers says that the supervisor lives"
        yield Finding("replica", "problem", f"{endpoint} does not answer: {values}", remedy)
        return
    answering, configured = (values.get(("bandit_router_workers", f'state="{s}"'), 0) for s in ("answering", "configured"))
    if not values.get(("bandit_router_ready", ""), 0):
        remedy = "docs/operations.md#not-ready"
        yield Finding(
            "replica", "problem", f"{endpoint} is not ready: {answering:.0f} of {configured:.0f} workers answer", remedy
        )
    elif answering < configured:
        remedy = "docs/operations.md#workers-missing"
        yield Finding("replica", "warning", f"{endpoint}: {answering:.0f} of {configured:.0f} workers answer", remedy)
    else:
        yield Finding("replica", "ok", f"{endpoint}: {answering:.0f} of {configured:.0f} workers answer")
    stale_s = values.get(("bandit_router_stale_seconds", ""), 0.0)
    if stale_s > _STALE_S:
        detail = f"{endpoint}: its policies could not be refreshed for {stale_s:.0f} s: it routes by what it knew then"
        yield Finding("policies", "problem", detail, "docs/operations.md#stale-policies")
    else:
        yield Finding("policies", "ok", f"{endpoint}: refreshed within the last {_STALE_S:.0f} s")


def behind(endpoints: tuple[str, ...], url: DatabaseUrl) -> Iterator[Finding]:
    """Whether every replica answers by the policy version that Postgres has."""
    late: dict[str, dict[str, tuple[int, int]]] = {}
    give_up = time.monotonic() + _CATCH_UP_S
    with connect(url, autocommit=True) as connection:
        needed = checkup.policy_versions(connection)
        while time.monotonic() < give_up:
            late = {endpoint: found for endpoint in endpoints if (found := _late(_read(endpoint), needed))}
            if not late:
                yield Finding("versions", "ok", f"{len(endpoints)} replicas answer by what Postgres knows")
                return
            time.sleep(0.2)
    for endpoint, experiments in late.items():
        experiment, (has, wants) = next(iter(experiments.items()))
        detail = f"{endpoint}: {experiment} is at version {has}, Postgres was at {wants} {_CATCH_UP_S:.0f} s ago;"
        remedy = "see `notifications` above and the log of that replica: docs/operations.md#learning-slow"
        yield Finding("versions", "problem", f"{detail} {len(experiments)} experiments are behind", remedy)


def _late(values: Mapping[tuple[str, str], float] | str, needed: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Experiments that a replica has routed, and knows an older version of: its own and the one it should have."""
    if isinstance(values, str):
        return {}
    found = {}
    for (name, labels), value in values.items():
        label = _EXPERIMENT.search(labels) if name == "bandit_router_policy_version" else None
        if label is not None and value < needed.get(label[1], 0):
            found[label[1]] = (int(value), needed[label[1]])
    return found


def _read(endpoint: str) -> dict[tuple[str, str], float] | str:
    """Values by name and labels; or why there are none."""
    try:
        with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=_TIMEOUT_S) as reply:
            text = reply.read().decode()
    except (OSError, ValueError, urllib.error.URLError) as error:
        return str(getattr(error, "reason", error))
    return {(name, labels or ""): float(value) for name, labels, value in _SAMPLE.findall(text)}
