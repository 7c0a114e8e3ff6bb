"""Whole nodes that found a swarm on what another has learned."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from shoal.node.complaint import Complaint, Exit
from shoal.node.invite import parse_invite
from shoal.node.membership import Membership
from shoal.node.node import Node
from shoal.node.swarms import Joined

from .test_node_discovery import running, spec_of, until
from .test_node_members import SMALL, asked, founded, said, service


def of(node: Node, id: str) -> Joined:
    return next(joined for joined in node.swarms.all() if joined.id == id)


def shown(node: Node, id: str) -> dict[str, Any]:
    return node.describe(of(node, id))


def first_record(node: Node, id: str) -> Any:
    found = of(node, id).service
    return found.log()[0] if found is not None and found.log() else None


async def learned(node: Node, id: str, rounds: int) -> float:
    """The loss after so many rounds or some more."""
    await until(lambda: shown(node, id)["round"] >= rounds)
    return float(shown(node, id)["figures"]["validation_loss"])


async def join(node: Node, invite: str) -> None:
    await node.swarms.join(await node.swarms.look(parse_invite(invite)), Membership())


async def test_a_swarm_goes_on_from_anothers_state_under_new_rules(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await founded(stack, tmp_path, 2)
        (old,) = one.swarms.all()
        before = await learned(one, old.id, 8)
        spec = {**SMALL, "name": "next", "members_start": 2, "round_s": 50.0}
        new = await asked(one, "swarm.create", spec=spec, origin="found@latest")
        start = of(one, new["id"]).spec.settings["start"]
        assert of(one, new["id"]).spec.parent == f"{old.id}@{new['parent']['record']}"
        assert (new["round"], new["state_digest"]) == (0, start)
        assert (await asked(two, "swarm.preview", invite=new["invite"]))["parent"].startswith(old.id)

        await join(two, new["invite"])
        after = await learned(two, new["id"], 1)
        assert after < before + 0.5 < 5.0  # who starts from nothing is at 5.5
        # Both took part in the first round: from the same state, to the bit.
        for record in (first_record(one, new["id"]), first_record(two, new["id"])):
            assert record.base_digest.hex() == start
            assert {share.member for share in record.taken} == {one.identity.peer_id, two.identity.peer_id}


async def test_a_swarm_that_is_founded_on_a_state_has_it_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "one", threads=1) as one:
        await one.swarms.create(spec_of(one, **SMALL), Membership())
        (old,) = one.swarms.all()
        await learned(one, old.id, 2)
        spec = {**SMALL, "name": "next", "members_start": 2}
        new = await asked(one, "swarm.create", spec=spec, origin=f"{old.id[:8]}@latest")
    async with running(tmp_path / "one", threads=1) as one:
        again = shown(one, new["id"])
        assert (again["round"], again["state_digest"], again["problem"]) == (0, new["state_digest"], None)


async def test_who_forks_a_swarm_leads_the_new_one_by_the_same_rules(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await founded(stack, tmp_path, 2, members_max=7)
        (old,) = two.swarms.all()
        await learned(two, old.id, 3)
        assert old.spec.members_start == 2
        text = await said(two, "swarm", "fork")
        assert f"of found ({old.id[:12]}). Others join it with" in text
        assert f"`shoal swarm leave {old.id[:12]}` leaves the old one" in text
        (new,) = [joined for joined in two.swarms.all() if joined.id != old.id]
        assert (new.spec.creator, new.spec.members_max, new.spec.name) == (two.identity.peer_id, 7, "found")
        assert new.spec.parent.startswith(f"{old.id}@")
        await until(lambda: shown(two, new.id)["round"] >= 1)  # alone: who began the old swarm may be gone
        invite = (await asked(two, "swarm.invite", swarm=new.id))["invite"]
        await join(one, invite)
        await until(lambda: all(shown(node, new.id)["round"] >= 2 for node in (one, two)))
        assert first_record(two, new.id).base_digest.hex() == new.spec.settings["start"]


async def test_what_cannot_be_gone_on_from_is_told_with_what_can(tmp_path: Path) -> None:
    async with running(tmp_path / "one", threads=1) as one:
        await one.swarms.create(spec_of(one, **SMALL, members_start=2), Membership())
        with pytest.raises(Complaint, match="has no record yet"):
            await asked(one, "swarm.fork")
        assert "waits for 1 of 2 members are connected" in await said(one, "swarm", "show")
        await one.swarms.leave(one.swarms.all()[0])
        await one.swarms.create(spec_of(one, **{**SMALL, "rounds_max": 2}), Membership())
        await until(lambda: service(one).status().round == 2)
        newest = service(one).status().record.hex()
        with pytest.raises(Complaint, match=f"but those after {newest[:12]} of round 2.*: name one, or 'latest'"):
            await asked(one, "swarm.fork", record="00" * 32)
        with pytest.raises(Complaint, match="is not SWARM@RECORD") as caught:
            await asked(one, "swarm.create", spec=SMALL, origin="found")
        assert caught.value.code is Exit.USAGE
        with pytest.raises(Complaint, match=r'trains gpt-0\.2m, and the spec says model = "gpt-0\.8m"') as caught:
            await asked(one, "swarm.create", spec={**SMALL, "model": "gpt-0.8m"}, origin="found@latest")
        assert caught.value.code is Exit.SPEC
        with pytest.raises(Complaint, match="who founds a swarm trains in it") as caught:
            await asked(one, "swarm.create", spec=SMALL, role="storage")
        assert caught.value.code is Exit.USAGE
        assert len(one.swarms.all()) == 1
        assert (await asked(one, "swarm.fork", record=newest[:8].upper()))["parent"]["record"] == newest
