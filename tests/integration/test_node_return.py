"""Whole nodes that leave a swarm and come back, or whose store was damaged meanwhile."""

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from shoal.node.complaint import Exit
from shoal.node.invite import parse_invite
from shoal.node.local_methods import invite_to
from shoal.node.node import Node
from shoal.training.namespaces import STORE_NAME

from .test_node_discovery import ROOT, STORAGE, members, running, spec_of, until


async def join(newcomer: Node, member: Node) -> None:
    (joined,) = member.swarms.all()
    await newcomer.swarms.join(await newcomer.swarms.look(parse_invite(invite_to(member, joined))), STORAGE)


async def test_who_left_a_swarm_and_joins_again_is_a_member_as_before(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running(tmp_path / "one"))
        two = await stack.enter_async_context(running(tmp_path / "two"))
        await one.swarms.create(spec_of(one), STORAGE)
        for _ in range(2):
            await join(two, one)
            await until(lambda: members(two) == {one.identity.peer_id} and members(one) == {two.identity.peer_id})
            await two.swarms.leave(two.swarms.all()[0])
            await until(lambda: members(one) == set())


async def test_a_damaged_store_is_told_by_the_commands_which_leave_it_alone_and_by_the_node(tmp_path: Path) -> None:
    async def verify() -> tuple[int, dict[str, object]]:
        command = [sys.executable, "-m", "shoal", "store", "verify", "--json", "--data-dir", str(tmp_path / "two")]
        ended = await trio.run_process(command, cwd=ROOT, capture_stdout=True, check=False)
        return ended.returncode, json.loads(ended.stdout)

    async with running(tmp_path / "one") as one:
        async with running(tmp_path / "two") as two:
            await one.swarms.create(spec_of(one), STORAGE)
            await join(two, one)
            store = two.swarms.all()[0].folder.rounds / STORE_NAME
            await until(lambda: members(two) == {one.identity.peer_id})
            code, found = await verify()
            assert (code, found["ok"]) == (Exit.OK, True)
        store.write_bytes(bytes(100) + store.read_bytes()[100:])
        damaged = store.read_bytes()
        code, found = await verify()
        assert (code, found["ok"]) == (Exit.FAILED, False)
        assert "damaged" in str(found["problems"])
        assert store.read_bytes() == damaged
        async with running(tmp_path / "two") as two:
            await until(lambda: "damaged" in str(two.swarms.all()[0].problem))
