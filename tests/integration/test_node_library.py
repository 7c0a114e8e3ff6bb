"""Shoal inside of other programs: the example, and what goes wrong there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from shoal.node.complaint import Exit

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 120.0
LOCAL = ["/ip4/127.0.0.1/tcp/0"]


def example(data_dir: Path, *invite: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-u", str(ROOT / "examples" / "own_loop.py"), str(data_dir), *invite]
    return subprocess.Popen(command, cwd=ROOT, env=with_shoal(), stdout=subprocess.PIPE, text=True)


def with_shoal() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_two_programs_with_their_own_loops_train_one_model(tmp_path: Path) -> None:
    with example(tmp_path / "one") as first:
        try:
            assert first.stdout is not None
            invite = first.stdout.readline().strip()
            assert invite.startswith("shoal:")
            with example(tmp_path / "two", invite) as second:
                try:
                    ours, _ = first.communicate(timeout=TIMEOUT_S)
                    theirs, _ = second.communicate(timeout=TIMEOUT_S)
                finally:
                    second.kill()
        finally:
            first.kill()
    assert (first.returncode, second.returncode) == (0, 0)
    round_, digest = ours.split()[-2:]
    assert round_ == "5"
    assert theirs.split()[-2:] == [round_, digest]


def test_a_program_that_stops_and_starts_again_goes_on_with_the_swarm(tmp_path: Path) -> None:
    rounds: list[int] = []
    model = torch.nn.Linear(2, 1)
    spec = {"name": "mine", "settings": {"steps": 2}}
    with shoal.create(model, data_dir=tmp_path, spec=spec, listen=LOCAL) as swarm:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with swarm.diloco(model, optimizer) as outer:
            invite = swarm.invite()
            # The third turn begins while the state of round 2 is hashed and saved; work goes on until it is.
            while outer.round < 3 or swarm.status()["round"] < outer.round - 1:
                optimizer.zero_grad()
                model(torch.ones(4, 2)).square().mean().backward()
                optimizer.step()
                outer.step()
            rounds.append(swarm.status()["round"])
    with shoal.join(invite, data_dir=tmp_path, listen=LOCAL) as swarm:
        assert swarm.spec.name == "mine"
        with swarm.diloco(model, torch.optim.SGD(model.parameters(), lr=0.1)) as outer:
            rounds.append(outer.round)
        swarm.leave()
    assert rounds[0] >= 2
    assert rounds[1] > 2


def test_what_goes_wrong_is_one_line_with_a_code(tmp_path: Path) -> None:
    model, other = torch.nn.Linear(2, 1), torch.nn.Linear(3, 1)
    with pytest.raises(shoal.Complaint, match="mistyped") as caught:
        shoal.join("shoal:abc", data_dir=tmp_path)
    assert caught.value.code is Exit.INVITE
    with pytest.raises(shoal.Complaint, match="did you mean 'threads'"):
        shoal.create(model, data_dir=tmp_path, thread=1)
    with pytest.raises(shoal.Complaint, match="spec key 'nam' is unknown"):
        shoal.create(model, data_dir=tmp_path, spec={"nam": "x"}, listen=LOCAL)
    with shoal.create(model, data_dir=tmp_path, listen=LOCAL) as swarm:
        with pytest.raises(shoal.Complaint, match="is in use by process") as caught:
            shoal.create(model, data_dir=tmp_path, listen=LOCAL)
        assert caught.value.code is Exit.IN_USE
        with pytest.raises(shoal.Complaint, match="call diloco"):
            swarm.status()
        with pytest.raises(shoal.Complaint, match=r"make it from model\.parameters\(\)"):
            swarm.diloco(model, torch.optim.SGD(other.parameters(), lr=0.1))
        with pytest.raises(shoal.Complaint, match="names or shapes differ"):
            swarm.diloco(other, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(shoal.Complaint, match="the node has stopped"):
        swarm.diloco(model, torch.optim.SGD(model.parameters(), lr=0.1))
