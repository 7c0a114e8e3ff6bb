"""A spec can be neither forged, swapped nor out of bounds; its author is told which key is wrong."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.spec import (
    SPEC_VERSION,
    AdmissionRule,
    Quorum,
    SignedSpec,
    Spec,
    open_spec,
    sign_spec,
    spec_from,
    swarm_id,
    swarm_id_of,
)
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed, decode, encode

CREATOR = Identity.from_seed(bytes(32))
OTHER = Identity.from_seed(bytes([1]) * 32)
NONCE = bytes(range(16))


def make(**values: Any) -> Spec:
    spec = spec_from(values, CREATOR.peer_id, NONCE)
    assert isinstance(spec, Spec), spec
    return spec


def reason_for(**values: Any) -> str:
    refused = spec_from(values, CREATOR.peer_id, NONCE)
    assert isinstance(refused, Malformed)
    return refused.reason


def forge(spec_bytes: bytes) -> SignedSpec:
    return SignedSpec(spec_bytes, CREATOR.sign(b"shoal/spec/1\0" + spec_bytes))


def test_a_signed_spec_opens_to_itself_under_its_own_id() -> None:
    spec = make(name="plays", round_s=12, settings={"steps": 50, "lr": 0.5, "fast": True, "codec": "int8"})
    signed = sign_spec(spec, CREATOR)
    assert open_spec(signed, swarm_id(spec)) == spec
    assert swarm_id_of(signed.spec) == swarm_id(spec)


def test_a_table_gives_the_same_spec_whatever_the_order_of_its_keys() -> None:
    one = spec_from({"name": "a", "round_s": 3, "settings": {"b": 1, "a": 2.5}}, CREATOR.peer_id, NONCE)
    two = spec_from({"round_s": 3.0, "name": "a", "settings": {"a": 2.5, "b": 1}}, CREATOR.peer_id, NONCE)
    assert isinstance(one, Spec)
    assert encode(one) == encode(two)


def test_a_public_swarm_lets_anybody_in_unless_its_author_says_otherwise() -> None:
    assert (make().admission, make().quorum) == (AdmissionRule.INVITE, Quorum.MAJORITY)
    public = make(is_public=True)
    assert (public.admission, public.quorum) == (AdmissionRule.OPEN, Quorum.TWO_THIRDS)
    assert make(is_public=True, admission="invite").quorum is Quorum.MAJORITY
    assert make(admission="open", quorum="majority").quorum is Quorum.MAJORITY


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"colour": "red"}, "'colour' is unknown"),
        ({"creator": "me"}, "'creator' is unknown"),
        ({"round_s": 0}, "'round_s'"),
        ({"round_s": math.nan}, "'round_s'"),
        ({"members_min": 3, "members_start": 2}, "members_min"),
        ({"members_start": 65}, "members_max"),
        ({"samples_max": 2**24 + 1}, "'samples_max'"),
        ({"settings": {"deep": {"er": 1}}}, "'settings'"),
        ({"settings": {"x": math.inf}}, "finite"),
        ({"settings": {str(i): i for i in range(257)}}, "'settings'"),
        ({"method": ""}, "'method'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_key_it_stands_under(values: dict[str, Any], word: str) -> None:
    assert word in reason_for(**values)


def test_a_spec_of_another_id_or_signer_or_with_a_changed_byte_is_refused() -> None:
    spec = make()
    signed = sign_spec(spec, CREATOR)
    assert isinstance(open_spec(signed, bytes(32)), Malformed)
    stolen = SignedSpec(signed.spec, OTHER.sign(b"shoal/spec/1\0" + signed.spec))
    assert isinstance(open_spec(stolen), Malformed)
    for place in range(len(signed.spec)):
        changed = bytearray(signed.spec)
        changed[place] ^= 1
        assert isinstance(open_spec(SignedSpec(bytes(changed), signed.signature)), Malformed)


def test_signing_for_somebody_else_is_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="not signed by its creator"):
        sign_spec(make(), OTHER)


def test_a_newer_version_is_named_before_its_unknown_fields_are() -> None:
    newer = encode([SPEC_VERSION + 1, "a field", {"of": "the future"}])
    opened = open_spec(forge(newer))
    assert isinstance(opened, Malformed)
    assert "needs a newer Shoal" in opened.reason


def test_bytes_that_are_not_canonical_are_refused_though_signed() -> None:
    data = encode(make(round_s=30.0))
    float_30 = encode(30.0)
    assert data.count(float_30) == 1
    opened = open_spec(forge(data.replace(float_30, encode(30))))
    assert isinstance(opened, Malformed)
    assert "canonical" in opened.reason


def test_unsorted_settings_and_contradictions_are_refused_though_signed() -> None:
    unsorted = Spec(creator=CREATOR.peer_id, nonce=NONCE, settings={"b": 1, "a": 2})
    upside_down = Spec(creator=CREATOR.peer_id, nonce=NONCE, members_min=5)
    endless = Spec(creator=CREATOR.peer_id, nonce=NONCE, settings={"a": math.inf})
    for spec in (unsorted, upside_down, endless):
        assert isinstance(open_spec(forge(encode(spec))), Malformed)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_refusal_even_when_they_are_signed(data: bytes) -> None:
    assert isinstance(open_spec(forge(data)), Malformed)


@given(st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.binary(max_size=20)), max_size=25))
def test_any_message_gives_a_refusal_even_when_it_is_signed(values: list[object]) -> None:
    try:
        data = encode(values)
    except OverflowError:
        return
    assert isinstance(open_spec(forge(data)), Malformed)


@given(st.binary(max_size=200))
def test_any_bytes_as_a_signed_spec_decode_to_one_or_to_a_refusal(data: bytes) -> None:
    assert isinstance(decode(data, SignedSpec, 1000), SignedSpec | Malformed)
