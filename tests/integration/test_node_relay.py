"""Two nodes that only a relay connects, the relay of a base install: they train together."""

import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from shoal.node.complaint import Complaint
from shoal.node.invite import InvitedBy, format_invite, parse_invite
from shoal.node.local_client import LocalClient

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 90.0
SPEC: dict[str, Any] = {
    "model": "gpt-0.2m",
    "members_start": 2,
    "members_min": 2,
    "round_s": 60.0,
    "settings": {"steps": 2, "batch_size": 2, "context": 32, "validation_windows": 2},
}
# What a base install cannot import, made so without one: tests/integration/test_node_without_torch.py has a real one.
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from shoal.node.cli import main; sys.exit(main())"


@contextmanager
def running(data_dir: Path, *flags: str, start: tuple[str, ...] = ("-m", "shoal")) -> Generator[LocalClient]:
    """A node that is ready."""
    command = [sys.executable, *start, "node", "--data-dir", str(data_dir), "--threads", "1", "--nice", "0"]
    log = data_dir.with_suffix(".log").open("w")
    listen = ("--listen", "/ip4/127.0.0.1/tcp/0")
    with log, subprocess.Popen([*command, *listen, *flags], cwd=ROOT, stdout=log, stderr=log) as node:
        try:
            with connected(data_dir, node) as client:
                yield client
        finally:
            node.kill()


def connected(data_dir: Path, node: "subprocess.Popen[bytes]") -> LocalClient:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return LocalClient(data_dir, timeout_s=PATIENCE_S)
        except Complaint:
            assert node.poll() is None, data_dir.with_suffix(".log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def only_relayed(text: str) -> str:
    """The invite as it looks where nobody can dial its maker."""
    invite = parse_invite(text)
    (member,) = invite.members
    places = tuple(address for address in member.addresses if address.endswith("/p2p-circuit"))
    assert places, member.addresses
    return format_invite(msgspec.structs.replace(invite, members=(InvitedBy(member.key, places),)))


def closed_rounds(data_dir: Path, until: int) -> dict[int, dict[str, Any]]:
    rounds: dict[int, dict[str, Any]] = {}
    with LocalClient(data_dir, timeout_s=PATIENCE_S) as node:
        for event in node.watch(after=0):
            if event["event"] == "RoundClosed":
                rounds[event["round"]] = event
                if event["round"] >= until:
                    return rounds
    raise AssertionError(f"the node ended after rounds {sorted(rounds)}")


def test_nodes_that_only_a_relay_connects_train_together(tmp_path: Path) -> None:
    with running(tmp_path / "relay", "--relay", "everybody", start=("-c", WITHOUT_TORCH)) as relay:
        address = relay.call("status")["addresses"][0]
        with (
            running(tmp_path / "founder", "--relays", address) as founder,
            running(tmp_path / "joiner") as joiner,
        ):
            invite = only_relayed(founder.call("swarm.create", spec=SPEC)["invite"])
            joined = joiner.call("swarm.join", invite=invite)
            assert founder.call("swarm.list")[0]["id"] == joined["id"]
            ours, theirs = closed_rounds(tmp_path / "founder", 2), closed_rounds(tmp_path / "joiner", 2)
            for number in (1, 2):
                assert ours[number]["state_digest"] == theirs[number]["state_digest"] != ""
                assert len(ours[number]["contributors"]) == 2
            ways = {peer["peer_id"]: peer["is_relayed"] for peer in joiner.call("peers")}
            assert ways == {founder.call("status")["peer_id"]: True, relay.call("status")["peer_id"]: False}
