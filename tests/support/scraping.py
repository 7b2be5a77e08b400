"""What a metrics endpoint says, as Prometheus would read it."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

#: Values by name and labels.
Scraped = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def get(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Ask over HTTP; returns status and body."""
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=15) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def parsed(text: str) -> Scraped:
    """Read an exposition; a series that comes twice fails."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def scrape(address: str) -> Scraped:
    """Scrape a service."""
    status, text = get(address, "/metrics")
    assert status == 200, text
    return parsed(text)


def value(scraped: Scraped, name: str, **labels: str) -> float | None:
    """Return one series of bandit_router_`name`; None if there is none."""
    return scraped.get((f"bandit_router_{name}", frozenset(labels.items())))


def values(scraped: Scraped, name: str, by: str) -> dict[str, float]:
    """Return the sums of a metric's series by the value of one label."""
    found: dict[str, float] = {}
    for (series, labels), number in scraped.items():
        if series == f"bandit_router_{name}":
            key = dict(labels).get(by, "")
            found[key] = found.get(key, 0.0) + number
    return found
