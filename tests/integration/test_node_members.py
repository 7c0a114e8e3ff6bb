"""Whole nodes whose owners decide who is in: one is removed by the others, one is given votes, one leaves."""

import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from shoal.node.complaint import Complaint, Exit
from shoal.node.invite import parse_invite
from shoal.node.local_client import LocalClient
from shoal.node.local_methods import invite_to
from shoal.node.membership import Membership
from shoal.node.node import Node
from shoal.training.service import SwarmService

from .test_node_discovery import ROOT, WAIT_S, running, spec_of, until

SMALL: dict[str, Any] = {
    "model": "gpt-0.2m",
    "round_s": 60.0,
    "settings": {"steps": 2, "batch_size": 2, "context": 32, "validation_windows": 2},
}


async def asked(node: Node, method: str, **params: object) -> Any:
    """As a program of the owner's asks."""

    def ask() -> Any:
        with LocalClient(node.setup.data_dir, timeout_s=WAIT_S) as client:
            return client.call(method, **params)

    return await trio.to_thread.run_sync(ask)


async def said(node: Node, *words: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "shoal", *words, "--data-dir", str(node.setup.data_dir)]
    run = partial(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return str((await trio.to_thread.run_sync(run)).stdout)


def service(node: Node) -> SwarmService:
    (joined,) = node.swarms.all()
    assert joined.service is not None
    return joined.service


def voters(node: Node) -> dict[str, int]:
    """Members by the log, and their votes."""
    view = service(node).membership()
    assert view is not None
    return {member.peer: member.votes for member in view.members}


def round_of(node: Node) -> int:
    return service(node).status().round


async def founded(stack: AsyncExitStack, root: Path, count: int, **values: Any) -> list[Node]:
    """So many nodes in one swarm, all of them members by the log."""
    nodes = [await stack.enter_async_context(running(root / str(number), threads=1)) for number in range(count)]
    first, *others = nodes
    await first.swarms.create(spec_of(first, **{**SMALL, "members_start": count, **values}), Membership())
    for node in others:
        await enter(node, first)
    await until(lambda: all(len(voters(node)) == count for node in nodes))
    return nodes


async def enter(newcomer: Node, member: Node) -> None:
    (joined,) = member.swarms.all()
    await newcomer.swarms.join(await newcomer.swarms.look(parse_invite(invite_to(member, joined))), Membership())


async def test_whom_two_of_three_remove_is_out_by_a_record_and_stays_out(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = await founded(stack, tmp_path, 3)
        doomed = three.identity.peer_id
        await until(lambda: doomed in service(one).status().contributors)

        first = await said(one, "swarm", "remove", doomed[-8:])
        assert f"{doomed} stays for now: 1 of 2 votes needed, by {one.identity.peer_id[-8:]}" in first
        assert f"shoal swarm remove {doomed[-8:]}" in first
        assert doomed in voters(one)
        await until(lambda: service(two).removal(doomed) == service(one).removal(doomed))
        removal = (await asked(two, "swarm.remove", peer=doomed))["removal"]
        assert removal is None or (removal["votes"], removal["votes_needed"], removal["is_wanted"]) == (2, 2, True)

        await until(lambda: all(doomed not in voters(node) for node in (one, two, three)))
        assert "removed: the members have voted this node out" in await said(three, "status")
        shown = await asked(one, "swarm.show")
        assert shown["agreement"]["barred"] == [doomed]
        assert (shown["agreement"]["quorum"]["votes"], shown["notice"]) == (2, None)
        (out,) = [record.round for record in service(one).log() if "Remove" in str(record.changes)]

        # The others go on, and take nothing more of its.
        await until(lambda: round_of(one) >= out + 3)
        takers = {share.member for record in service(one).log() if record.round > out for share in record.taken}
        assert takers == {one.identity.peer_id, two.identity.peer_id}
        with pytest.raises(Complaint, match="was removed for good already"):
            await asked(one, "swarm.remove", peer=doomed[-8:])

        # With the same key there is no way back.
        assert (await asked(three, "swarm.leave"))["parting"] == "unseen"
        await enter(three, one)
        start = round_of(one)
        await until(lambda: round_of(one) >= start + 3)
        assert doomed not in voters(one)
        await until(lambda: str(service(three).status().notice).startswith("removed"))


async def test_in_an_open_swarm_a_member_has_no_vote_until_one_vouches(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await founded(stack, tmp_path, 2, admission="open")
        first, second = one.identity.peer_id, two.identity.peer_id
        assert voters(one) == {first: 1_000_000, second: 0}
        with pytest.raises(Complaint, match="this node has no vote"):
            await asked(two, "swarm.remove", peer=first)
        with pytest.raises(Complaint, match="has no 1000000 votes to give away and one to keep"):
            await asked(one, "swarm.vouch", peer=second, votes=1_000_000)
        given = await said(one, "swarm", "vouch", second[-10:], "--votes", "400000")
        assert given == f"{second} has 400000 votes of this node's with the next record; this node keeps 600000\n"
        await until(lambda: voters(two) == {first: 600_000, second: 400_000})
        shown = await said(two, "swarm", "show")
        assert "two thirds: 666667 of 1000000 votes are needed; 1000000 are connected" in shown
        assert f"votes from {first[-8:]}" in shown
        assert (await asked(two, "swarm.leave"))["parting"] == "recorded"
        await until(lambda: voters(one) == {first: 1_000_000})


async def test_who_leaves_without_a_quorum_is_told_that_its_votes_still_count(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        two = await stack.enter_async_context(running(tmp_path / "two", threads=1))
        async with running(tmp_path / "one", threads=1) as one:
            await one.swarms.create(spec_of(one, **SMALL, members_start=2), Membership())
            await enter(two, one)
            await until(lambda: len(voters(two)) == 2)
        await until(lambda: str(service(two).status().notice).startswith("paused: 1 of 2 votes are connected"))
        shown = await said(two, "status")
        assert "agreement paused: 1 of 2 votes are connected, 2 are needed (or 1 with those of " in shown
        left = await said(two, "swarm", "leave")
        assert "no record says so yet" in left


@pytest.mark.parametrize(
    ("given", "words", "code"),
    [
        ("12D3KooW", "fits several members, say more of the id", Exit.USAGE),
        ("nobody", "no member's id begins or ends with 'nobody'; the members are 12D3KooW", Exit.FAILED),
    ],
)
async def test_a_member_is_named_by_an_end_of_its_id_that_no_other_has(
    tmp_path: Path, given: str, words: str, code: Exit
) -> None:
    async with AsyncExitStack() as stack:
        one, _ = await founded(stack, tmp_path, 2)
        with pytest.raises(Complaint, match=words) as caught:
            await asked(one, "swarm.remove", peer=given)
        assert caught.value.code is code
