"""What a client sends of itself, and to whom it does not."""

from __future__ import annotations

import pytest

from router.client import AsyncRouterClient, RouterClient, Tls
from router.client._access import access, is_local

KEY = "brk_0123456789ab_" + "A" * 43
SENT = (("authorization", f"Bearer {KEY}"),)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:50051", True),
        ("127.0.0.1:50051", True),
        ("127.8.0.1:50051", True),
        ("[::1]:50051", True),
        ("dns:///localhost:50051", True),
        ("dns://1.1.1.1/localhost:50051", True),
        ("ipv4:127.0.0.1:50051", True),
        ("ipv6:[::1]:50051", True),
        ("unix:/run/router.sock", True),
        ("router:50051", False),
        ("dns:///router:50051", False),
        ("10.0.0.1:50051", False),
        ("[2001:db8::1]:50051", False),
        ("ipv4:127.0.0.1:50051,10.0.0.1:50051", False),
        ("localhost.example.com:50051", False),
        ("xds:///localhost:50051", False),
        ("127.0.0.1.example.com:50051", False),
        ("", False),
    ],
)
def test_what_is_this_very_host(target: str, local: bool) -> None:
    assert is_local(target) is local


def test_a_key_in_plain_text_stays_on_this_host() -> None:
    assert access("localhost:1", api_key=KEY, environment={}).metadata == SENT
    with pytest.raises(ValueError, match="would travel to 'router:1' in plain text") as raised:
        access("router:1", api_key=KEY, environment={})
    assert KEY not in str(raised.value)
    assert access("router:1", api_key=KEY, insecure=True, environment={}).metadata == SENT
    assert access("router:1", api_key=KEY, tls=Tls(), environment={}).metadata == SENT
    assert access("router:1", environment={}).credentials is None, "without a key there is nothing to lose"


def test_the_environment_fills_in_what_is_not_given() -> None:
    environment = {"BANDIT_ROUTER_API_KEY": f"{KEY}\n"}
    assert access("localhost:1", environment=environment).metadata == SENT
    with pytest.raises(ValueError, match="plain text"):
        access("router:1", environment=environment)
    assert access("localhost:1", api_key="", environment=environment).metadata == ()
    assert access(None, given_channel=True, environment=environment).metadata == (), "a channel that may lead anywhere"
    assert access(None, given_channel=True, api_key=KEY, environment={}).metadata == SENT


@pytest.mark.parametrize("key", ["two words", "kéy", "line\nbreak", "nul\0"])
def test_what_cannot_be_sent_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match="is no API key") as raised:
        access("localhost:1", api_key=key, environment={})
    assert key not in str(raised.value)


def test_what_goes_together_and_what_does_not() -> None:
    with pytest.raises(ValueError, match="cert and key go together"):
        access("router:1", tls=Tls(cert=b"x"), environment={})
    with pytest.raises(ValueError, match="have it already"):
        access("router:1", tls=Tls(), given_channel=True, environment={})
    with pytest.raises(OSError, match="gone"):
        access("router:1", environment={"BANDIT_ROUTER_TLS_CA": "/gone"})


def test_both_clients_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDIT_ROUTER_API_KEY", KEY)
    for kind in (RouterClient, AsyncRouterClient):
        with pytest.raises(ValueError, match="plain text"):
            kind("router:1")


def test_a_key_is_not_shown() -> None:
    found = access("localhost:1", api_key=KEY, environment={})
    assert KEY not in repr(found)
    assert "secret" not in repr(Tls(key=b"secret"))
