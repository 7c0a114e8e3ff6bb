"""What joining will cost, told before joining."""

import tomllib

import msgspec
import pytest

from shoal.node.cli_founding import DEFAULT_SPEC
from shoal.node.cli_swarm import LET_IN, QUORUMS, describe_preview
from shoal.node.preview import preview
from shoal.training.spec import AdmissionRule, Quorum, Spec, spec_from
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed

CREATOR = Identity.from_seed(bytes(32)).peer_id


def default_spec() -> Spec:
    spec = spec_from(tomllib.loads(DEFAULT_SPEC), CREATOR, bytes(16))
    assert not isinstance(spec, Malformed)
    return spec


def test_the_default_spec_is_sound_and_its_costs_are_known() -> None:
    told = preview(default_spec(), threads=1, is_torch_here=True)
    assert told.parameters == 819_200
    assert told.payload_bytes is not None
    assert 4 * 819_200 <= told.payload_bytes <= 4 * 819_200 + 1000
    assert told.memory_bytes is not None
    assert told.disk_bytes is not None
    text = describe_preview(msgspec.to_builtins(told))
    for word in ("diloco", "gpt-0.8m, 819,200 parameters", "shakespeare", "disk", "memory", "time", CREATOR):
        assert word in text
    assert "unknown" not in text


def test_more_threads_shorten_a_round_and_the_deadline_bounds_it() -> None:
    spec = default_spec()
    slow, fast = (preview(spec, threads=threads, is_torch_here=True).round_s for threads in (1, 4))
    assert fast < slow
    large = Spec(creator=CREATOR, nonce=bytes(16), model="gpt-124m", round_s=60.0)
    assert preview(large, threads=1, is_torch_here=True).round_s == pytest.approx(60.0)


def test_a_round_is_told_as_long_as_the_member_will_train() -> None:
    spec = default_spec()
    settings = dict(spec.settings)
    del settings["steps_max"]
    shorter = msgspec.structs.replace(spec, settings=settings)
    most, reference = (preview(each, threads=1, is_torch_here=True).round_s for each in (spec, shorter))
    assert most == pytest.approx(4 * reference, rel=1e-3)  # steps_max is 200, steps is 50


def test_by_forward_passes_a_round_costs_bytes() -> None:
    spec = Spec(creator=CREATOR, nonce=bytes(16), method="zeroth", model="smollm2-135m", data="sentiment")
    told = preview(spec, threads=1, is_torch_here=True)
    assert (told.parameters, told.payload_bytes) == (7488, 8)
    everything = msgspec.structs.replace(spec, settings={"train": "all"})
    assert preview(everything, threads=1, is_torch_here=True).parameters == 134_515_008
    assert "8 B" in describe_preview(msgspec.to_builtins(told))


def test_an_unknown_model_or_method_is_shown_with_its_costs_unknown() -> None:
    told = preview(Spec(creator=CREATOR, nonce=bytes(16), method="other", model="mine"), threads=1, is_torch_here=False)
    text = describe_preview(msgspec.to_builtins(told))
    assert "unknown" in text
    assert "join with --role storage" in text


def shown(admission: AdmissionRule, obstacle: str | None = None, quorum: Quorum = Quorum.MAJORITY) -> str:
    spec = msgspec.structs.replace(default_spec(), admission=admission, quorum=quorum)
    return describe_preview(msgspec.to_builtins(preview(spec, 1, obstacle, is_torch_here=True)))


def test_it_is_told_how_one_is_let_in_and_which_votes_end_a_round() -> None:
    assert "let in    by this invite, with one vote" in shown(AdmissionRule.INVITE)
    assert "let in    you are on its list" in shown(AdmissionRule.LIST)
    assert "let in    anybody; no vote until a member vouches for you" in shown(AdmissionRule.OPEN)
    assert "let in    you are NOT on its list" in shown(AdmissionRule.LIST, "you are NOT on its list: ask the creator")
    assert "quorum    more than half of the votes" in shown(AdmissionRule.INVITE)
    assert "quorum    more than two thirds of the votes" in shown(AdmissionRule.OPEN, quorum=Quorum.TWO_THIRDS)


def test_every_rule_of_admission_and_every_quorum_has_words() -> None:
    assert set(LET_IN) == {rule.value for rule in AdmissionRule}
    assert set(QUORUMS) == {quorum.value for quorum in Quorum}
