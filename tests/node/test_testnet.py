"""What a testnet is asked for and how it repeats; tests/integration has the testnets that run."""

import argparse
import json
from pathlib import Path

import pytest

from shoal.node.cli import parser
from shoal.node.cli_chaos import check
from shoal.node.cli_testnet import KEPT_PREFIX, PREFIX, options_of, plan_of, setting_of, sweep
from shoal.node.complaint import Complaint, Exit
from shoal.node.plan import Plan
from shoal.node.report import Final, Report
from shoal.node.testnet_summary import summary
from shoal.training.diloco_settings import SHORT_RUN
from shoal.training.spec import spec_from
from shoal.transport.wire import Malformed


def flags(*given: str) -> argparse.Namespace:
    return parser().parse_args(["testnet", *given])


def test_the_default_is_four_nodes_and_twelve_rounds() -> None:
    plan = plan_of(flags())
    assert (plan.nodes, plan.rounds, plan.minutes, plan.model) == (4, 12, None, "gpt-0.8m")


def test_minutes_replace_rounds() -> None:
    plan = plan_of(flags("--minutes", "2.5"))
    assert (plan.rounds, plan.minutes) == (None, 2.5)


@pytest.mark.parametrize(
    "given", [("--nodes", "0"), ("--nodes", "65"), ("--rounds", "0"), ("--seed", "-1"), ("--set", "x")]
)
def test_what_cannot_be_run_is_refused_in_one_line(given: tuple[str, str]) -> None:
    with pytest.raises(Complaint) as caught:
        plan_of(flags(*given))
    assert caught.value.code is Exit.USAGE
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--nodes", "2", "--chaos", "1"), "no majority is left without one"),
        (("--rounds", "1", "--chaos", "1"), "needs 10 s at least, not 6"),
    ],
)
def test_chaos_that_cannot_be_carried_out_is_refused_in_one_line(given: tuple[str, ...], reason: str) -> None:
    with pytest.raises(Complaint, match=reason):
        check(plan_of(flags(*given)))


def test_chaos_lasts_two_minutes_unless_told_otherwise_and_has_no_last_round() -> None:
    plan = plan_of(flags("--chaos", "7"))
    assert (plan.chaos, plan.span_s, plan.rounds_max, plan.model) == (7, 120.0, 0, "gpt-0.2m")
    assert plan_of(flags("--chaos", "7", "--minutes", "10")).span_s == 600.0
    assert plan_of(flags("--chaos", "7", "--rounds", "30")).rounds_max == 0
    assert plan_of(flags("--chaos", "7", "--model", "gpt-0.8m")).model == "gpt-0.8m"


def test_what_chaos_is_compared_with_differs_in_nothing_but_its_waiting() -> None:
    plan = plan_of(flags("--chaos", "7", "--set", "steps=9"))
    disturbed, undisturbed = plan.spec(), plan.undisturbed().spec()
    assert disturbed["settings"] == undisturbed["settings"]
    apart = {key for key in disturbed.keys() | undisturbed.keys() if disturbed.get(key) != undisturbed.get(key)}
    assert apart == {"round_s", "grace_s", "silence_s"}


def test_settings_are_numbers_truths_or_texts() -> None:
    texts = ["steps=20", "outer_lr=0.5", "overlap=true", "codec=int8", 'codec="int8"', "list=[1]"]
    values = [20, 0.5, True, "int8", "int8", "[1]"]
    assert [setting_of(text)[1] for text in texts] == values


def test_a_file_becomes_data_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "my.txt"
    path.write_bytes(b"some text")
    plan = plan_of(flags("--data", str(path)))
    assert plan.data.startswith("file:")
    assert plan.data_path == path


def test_a_report_that_cannot_be_written_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Complaint, match="cannot write the report"):
        options_of(flags("--report", str(tmp_path / "file" / "report")))


def test_the_same_seed_gives_the_same_keys_and_swarm_and_another_seed_others() -> None:
    one, same, other = Plan(seed=1), Plan(seed=1), Plan(seed=2)
    peers = [one.identity(index).peer_id for index in range(4)]
    assert peers == [same.identity(index).peer_id for index in range(4)]
    assert len({*peers, *(other.identity(index).peer_id for index in range(4))}) == 8
    assert one.nonce() == same.nonce() != other.nonce()


def test_every_plan_makes_a_sound_spec() -> None:
    for plan in (Plan(), Plan(chaos=1), Plan(nodes=1, rounds=None, minutes=1.0), Plan(nodes=64, settings={"steps": 3})):
        spec = spec_from(plan.spec(), plan.identity(0).peer_id, bytes.fromhex(plan.nonce()))
        assert not isinstance(spec, Malformed), spec
        assert spec.members_start == plan.nodes


def test_a_plan_suits_a_dozen_rounds_unless_it_is_told_otherwise() -> None:
    assert Plan().spec()["settings"] == dict(SHORT_RUN)
    assert Plan(settings={"lr": 1e-3}).spec()["settings"] == {**SHORT_RUN, "lr": 1e-3}


def test_the_last_line_of_json_says_what_went_wrong() -> None:
    final = Final(validation_loss=0.0, tokens_per_member=0, bytes_sent_total=0)
    report = Report(method="diloco", nodes=("a",), adversaries=(), rounds=(), baselines=None, final=final)
    line = json.loads(
        json.dumps(summary(report, ["round 1 did not close"], Path("r/report.json"), Path("r/report.html")))
    )
    assert line["ok"] is False
    assert line["problems"] == ["round 1 did not close"]


def test_only_what_a_killed_testnet_left_is_swept_away(tmp_path: Path) -> None:
    kept, left, new = (tmp_path / name for name in (f"{KEPT_PREFIX}1", f"{PREFIX}1", f"{PREFIX}2"))
    for folder, lock in ((kept, "12\n"), (left, "12\n"), (new, "")):
        folder.mkdir(mode=0o700)
        (folder / "lock").write_text(lock)
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([kept, new])
