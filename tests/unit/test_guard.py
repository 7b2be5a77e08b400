"""Keys, rings and buckets, without a server."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from router.access.buckets import TokenBucket
from router.access.guard import Guard
from router.access.keys import ApiKey, Caller, KeyRing, NewKey, hash_of, is_key, new_key, ring_of
from router.access.roles import Role
from router.errors import ResourceExhaustedError, UnauthenticatedError


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


class NoDenials:
    def denied(self, caller: Caller, method: str, experiment_id: str, source: str) -> None:
        raise AssertionError("nothing is denied here")


def key_of(new: NewKey, **fields: object) -> ApiKey:
    return replace(ApiKey(new.key_id, "somebody", new.secret_hash, frozenset({Role.READ})), **fields)  # type: ignore[arg-type]


def sent(text: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {text}")]


def test_a_key_is_256_random_bits_and_what_is_kept_is_not_the_key() -> None:
    made = [new_key() for _ in range(200)]
    assert len({new.text for new in made}) == len({new.key_id for new in made}) == 200
    for new in made:
        assert re.fullmatch(r"brk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", new.text)
        assert is_key(new.text)
        assert new.secret_hash == hash_of(new.text)
        assert len(new.secret_hash) == 32
        assert new.text not in repr(new)
        assert new.secret_hash.hex() not in repr(key_of(new))


def test_a_ring_knows_the_whole_key_and_nothing_like_it() -> None:
    new, other = new_key(), new_key()
    ring = KeyRing([Caller(key_of(new))])
    assert ring.find(new.text) is ring.find(new.text)
    secret, strange = new.text[17:], other.text[17:]
    for text in (
        *("", "brk_", new.text[:-1], new.text + "A", new.text.upper(), f" {new.text}", f"{new.text}\n"),
        *(other.text, f"brk_{new.key_id}_{strange}", f"brk_{other.key_id}_{secret}", new.text.replace("brk_", "")),
    ):
        assert ring.find(text) is None, text


def test_unknown_keys_leave_nothing_behind() -> None:
    ring = KeyRing([Caller(key_of(known := new_key()))])
    for _ in range(1_000):
        ring.find(new_key().text)
        ring.find(f"brk_{known.key_id}_{new_key().text[17:]}")
    assert ring.find(known.text)
    assert len(ring._verified) == 1


def test_a_new_ring_knows_nothing_of_the_old_one_but_its_buckets() -> None:
    clock = Clock()
    gone, stays, changes = new_key(), new_key(), new_key()
    limited = [key_of(new, rate=1.0, burst=5.0) for new in (gone, stays, changes)]
    before = ring_of(limited, KeyRing(), clock)
    assert before.find(stays.text)
    after = ring_of([limited[1], replace(limited[2], rate=2.0)], before, clock)
    assert after.find(gone.text) is None
    found, other = after.find(stays.text), after.find(changes.text)
    assert found is not None
    assert other is not None
    assert found.bucket is before.buckets[stays.key_id]
    assert other.bucket is not before.buckets[changes.key_id]


class TestGuard:
    def guard(self, *keys: ApiKey) -> tuple[Guard, Clock]:
        clock = Clock()
        guard = Guard(clock, lambda: int(clock.at_s * 1e6), NoDenials())
        guard.follow(keys)
        return guard, clock

    def reason(self, guard: Guard, metadata: list[tuple[str, str | bytes]]) -> str:
        with pytest.raises(UnauthenticatedError) as raised:
            guard.identify(metadata)
        return raised.value.reason

    def test_the_scheme_is_bearer_in_any_case(self) -> None:
        new = new_key()
        guard, _ = self.guard(key_of(new))
        for scheme in ("Bearer", "bearer", "BEARER"):
            assert guard.identify([("authorization", f"{scheme} {new.text}")]).key.key_id == new.key_id
        for value in (new.text, f"Basic {new.text}", f"Bearer  {new.text}", f"Bearer {new.text} ", new.text.encode()):
            assert self.reason(guard, [("authorization", value)]) == "API_KEY_INVALID"
        assert self.reason(guard, [("x-api-key", new.text)]) == "API_KEY_MISSING"

    def test_only_the_first_of_several_counts(self) -> None:
        new = new_key()
        guard, _ = self.guard(key_of(new))
        wrong = ("authorization", "Bearer no")
        assert self.reason(guard, [wrong, *sent(new.text)]) == "API_KEY_INVALID"

    def test_a_key_is_refused_from_the_moment_that_it_expires(self) -> None:
        new = new_key()
        guard, clock = self.guard(key_of(new, expires_at_us=1_000_500_000))
        caller = guard.identify(sent(new.text))
        clock.at_s = 1000.499999
        guard.identify(sent(new.text))
        guard.check_still(caller)
        clock.at_s = 1000.5
        assert self.reason(guard, sent(new.text)) == "API_KEY_EXPIRED"
        with pytest.raises(UnauthenticatedError):
            guard.check_still(caller)

    def test_a_revoked_key_is_refused_with_the_next_call(self) -> None:
        new = new_key()
        guard, _ = self.guard(key_of(new))
        caller = guard.identify(sent(new.text))
        guard.follow([key_of(new, revoked=True)])
        assert self.reason(guard, sent(new.text)) == "API_KEY_REVOKED"
        with pytest.raises(UnauthenticatedError):
            guard.check_still(caller)
        guard.follow([])
        assert self.reason(guard, sent(new.text)) == "API_KEY_INVALID"

    def test_a_key_that_is_over_its_rate_is_refused_before_its_message_is_read(self) -> None:
        new = new_key()
        guard, clock = self.guard(key_of(new, rate=2.0, burst=3.0))
        caller = guard.identify(sent(new.text))
        assert caller.bucket is not None
        assert caller.bucket.take(3) == 0.0
        with pytest.raises(ResourceExhaustedError) as raised:
            guard.identify(sent(new.text))
        assert raised.value.retry_after_ms == 501
        clock.at_s += 0.5
        guard.identify(sent(new.text))

    def test_used_keys_are_told_once(self) -> None:
        new = new_key()
        guard, _ = self.guard(key_of(new))
        assert guard.used() == []
        guard.identify(sent(new.text))
        guard.identify(sent(new.text))
        assert guard.used() == [new.key_id]
        assert guard.used() == []


class TestTokenBucket:
    def test_as_many_as_the_burst_and_then_the_rate(self) -> None:
        """By hand: 3 at once; 2 a second from then on."""
        clock = Clock()
        bucket = TokenBucket(2.0, 3.0, clock)
        assert [bucket.take(1) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
        clock.at_s += 0.25
        assert bucket.take(1) == pytest.approx(0.25)
        clock.at_s += 0.25
        assert bucket.take(1) == 0.0
        clock.at_s += 100.0
        assert [bucket.take(1) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5], "a pause earns no more than the burst"

    def test_a_batch_is_let_through_and_paid_back(self) -> None:
        clock = Clock()
        bucket = TokenBucket(10.0, 5.0, clock)
        assert bucket.take(1_000) == 0.0
        assert bucket.take(1) == pytest.approx((1 - (5 - 1_000)) / 10)
        clock.at_s += 99.5
        assert bucket.take(1) > 0.0
        clock.at_s += 0.2
        assert bucket.take(1) == 0.0

    @pytest.mark.parametrize("size", [1, 7, 100])
    def test_over_time_nobody_gets_more_than_the_rate(self, size: int) -> None:
        clock = Clock()
        bucket = TokenBucket(50.0, 20.0, clock)
        taken = 0
        for _ in range(100_000):
            clock.at_s += 0.001
            taken += size if bucket.take(size) == 0.0 else 0
        assert 100 * 50 - 2 * size <= taken <= 100 * 50 + 20 + size
