"""A spec's settings: defaults, bounds, and a learning rate that a joiner can compute."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.diloco_settings import DilocoSettings, learning_rate, parse_settings, settings_of
from shoal.training.pace import StepRange
from shoal.training.rules import RULES
from shoal.training.spec import Spec


def parsed(**settings: object) -> DilocoSettings:
    result = parse_settings(settings)
    assert isinstance(result, DilocoSettings), result
    return result


def test_the_papers_outer_optimizer_and_a_fixed_number_of_steps_are_the_defaults() -> None:
    settings = parsed()
    assert settings.step_range() == StepRange(50, 50, 50)
    assert parsed(steps=100, steps_min=10, steps_max=400).step_range() == StepRange(10, 400, 100)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"stepps": 5}, "stepps"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": "50"}, "steps"),
        ({"outer_momentum": 1.0}, "outer_momentum"),
        ({"outer_lr": float("nan")}, "outer_lr"),
        ({"lr": -1.0}, "lr"),
        ({"codec": "zip"}, "zip"),
        ({"steps": 50, "steps_min": 60}, "steps_min"),
        ({"steps": 50, "steps_max": 40}, "steps_max"),
        ({"start": "abc"}, "start"),
        ({"rule": "medain"}, "medain"),
        ({"attackers": 0.5}, "attackers"),
        ({"attackers": -0.1}, "attackers"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, object], named: str) -> None:
    reason = parse_settings(settings)
    assert isinstance(reason, str)
    assert named in reason


def test_an_unknown_name_is_refused_with_the_valid_ones() -> None:
    reason = parse_settings({"steps": 5, "foo": 1})
    assert isinstance(reason, str)
    assert reason.startswith("diloco settings: 'foo' is not known here; known: steps, steps_min, ")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_be_named_and_bears_small_swarms(rule: str) -> None:
    spec = Spec(creator="1" * 52, nonce=bytes(16), members_min=3, members_start=3, settings={"rule": rule})
    assert settings_of(spec) == parsed(rule=rule)


@pytest.mark.parametrize(
    ("rule", "fields", "reason"),
    [
        ("flag", {"members_max": 65}, "rule flag takes up to 64 members, members_max is 65"),
        ("nnm_trimmed_mean", {"members_max": 129}, "rule nnm_trimmed_mean takes up to 128 members, members_max is 129"),
        (
            "mda",
            {"members_max": 101},
            "rule mda bears up to 20 attackers, and attackers = 0.2 of members_max = 101 are 21: lower one of them",
        ),
        ("krum", {"members_min": 2}, "rule krum takes 3 members or more, members_min is 2"),
        ("multi_krum", {"members_min": 1}, "rule multi_krum takes 3 members or more, members_min is 1"),
    ],
    ids=["flag", "nnm", "mda", "krum", "multi_krum"],
)
def test_what_a_rule_does_not_bear_is_refused_before_there_is_a_swarm(
    rule: str, fields: dict[str, int], reason: str
) -> None:
    sound = Spec(
        creator="1" * 52, nonce=bytes(16), members_min=3, members_start=3, members_max=64, settings={"rule": rule}
    )
    assert isinstance(settings_of(sound), DilocoSettings)
    assert settings_of(msgspec.structs.replace(sound, **fields)) == f"diloco settings: {reason}"


def test_the_rate_warms_up_then_falls_to_its_end() -> None:
    settings = parsed(lr=1.0, lr_end=0.1, warmup_rounds=2.0, steps=10)
    rates = [learning_rate(settings, 12, round_, step) for round_ in range(1, 13) for step in range(10)]
    assert 0 < rates[0] < 0.1
    assert max(rates) == rates[20] == 1.0
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert learning_rate(settings, 12, 500, 0) == pytest.approx(0.1)


def test_without_an_end_the_rate_stays_and_a_spec_may_say_where_the_cosine_ends() -> None:
    assert learning_rate(parsed(lr=1.0), 0, 10_000, 3) == 1.0
    assert learning_rate(parsed(lr=1.0, lr_end=0.0, lr_rounds=20), 0, 21, 0) == pytest.approx(0.0)


@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_the_rate_is_positive_bounded_and_the_same_for_all_who_do_more_steps(
    round_: int, step: int, rounds_max: int
) -> None:
    settings = parsed(lr=0.5, steps=50)
    rate = learning_rate(settings, rounds_max, round_, step)
    assert 0 < rate <= 0.5
    if step >= 50:
        assert rate == learning_rate(settings, rounds_max, round_, 50)
