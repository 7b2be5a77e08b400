"""Decision ids for any content: what was minted opens, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidArgumentError
from router.tokens import DecisionToken, TokenCodec, TokenKey, parse_token

CODEC = TokenCodec(TokenKey(7, b"k" * 32), {})


def minted(token: DecisionToken, codec: TokenCodec = CODEC) -> str:
    return codec.mint(token)[0].decode()


u64 = st.integers(0, 2**63 - 1)
hashes = st.binary(min_size=8, max_size=8)
tokens = st.builds(
    DecisionToken,
    incarnation=u64,
    decision_key=st.binary(min_size=16, max_size=16),
    arm=st.integers(0, 65_535),
    reward_rule_version=st.integers(0, 65_535),
    learned=st.booleans(),
    policy_version=u64,
    propensity=st.floats(0, 1),
    decided_at_us=st.integers(0, 2**62),
    unit_hash=hashes,
    session_hash=hashes,
    turn_hash=hashes,
    segment=st.text("abcXYZ019._:/@-", max_size=64),
)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(tokens)
def test_what_was_minted_opens(token):
    decision_id, raw = CODEC.mint(token)
    assert CODEC.open(decision_id.decode()) == token
    assert parse_token(raw) == token
    assert len(decision_id) <= 512


@given(tokens, st.data())
def test_one_changed_character_is_refused(token, data):
    decision_id = minted(token)
    index = data.draw(st.integers(0, len(decision_id) - 1))
    character = data.draw(st.sampled_from(ALPHABET).filter(lambda c: c != decision_id[index]))
    with pytest.raises(InvalidArgumentError) as refused:
        CODEC.open(decision_id[:index] + character + decision_id[index + 1 :])
    assert refused.value.reason in {"DECISION_ID_TAMPERED", "DECISION_ID_FOREIGN", "DECISION_ID_MALFORMED"}
    assert refused.value.violations[0].field == "decision_id"


@given(st.text(max_size=300) | st.text(ALPHABET + "=+/ \n", max_size=300))
def test_anything_else_is_refused_and_never_crashes(text):
    with pytest.raises(InvalidArgumentError):
        CODEC.open(text)


@given(tokens, st.sampled_from(["=", "==", " ", "\n", "A"]))
def test_only_the_canonical_form_opens(token, extra):
    decision_id = minted(token)
    for changed in (decision_id + extra, extra + decision_id):
        with pytest.raises(InvalidArgumentError):
            CODEC.open(changed)


@given(tokens, st.integers(1, 60))
def test_a_cut_id_is_malformed(token, cut):
    decision_id = minted(token)
    with pytest.raises(InvalidArgumentError) as refused:
        CODEC.open(decision_id[:-cut])
    assert refused.value.reason == "DECISION_ID_MALFORMED"


def test_another_key_is_foreign_and_an_older_key_still_verifies():
    token = DecisionToken(1, b"d" * 16, 0, 1, True, 1, 0.5, 1, b"u" * 8, b"s" * 8, b"t" * 8, "")
    decision_id = minted(token, TokenCodec(TokenKey(8, b"x" * 32), {}))
    with pytest.raises(InvalidArgumentError) as refused:
        CODEC.open(decision_id)
    assert refused.value.reason == "DECISION_ID_FOREIGN"
    assert TokenCodec(TokenKey(7, b"k" * 32), {8: b"x" * 32}).open(decision_id) == token


def test_a_stolen_key_id_does_not_help():
    forged = minted(
        DecisionToken(1, b"d" * 16, 0, 1, True, 1, 0.5, 1, b"u" * 8, b"s" * 8, b"t" * 8, ""),
        TokenCodec(TokenKey(7, b"x" * 32), {}),
    )
    with pytest.raises(InvalidArgumentError) as refused:
        CODEC.open(forged)
    assert refused.value.reason == "DECISION_ID_TAMPERED"


def test_ids_are_hashed_under_the_key():
    other = TokenCodec(TokenKey(8, b"x" * 32), {})
    assert CODEC.hash_id("user-1") != other.hash_id("user-1")
    assert CODEC.hash_id("user-1") != CODEC.hash_id("user-2")
    assert CODEC.hash_id("") == bytes(8)
