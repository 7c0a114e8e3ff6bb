"""Whole nodes that are let into a swarm, or told why not."""

from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from shoal.node.complaint import Complaint, Exit
from shoal.node.invite import parse_invite
from shoal.node.local_methods import invite_to
from shoal.node.looking import Offer
from shoal.node.membership import SwarmFolder
from shoal.node.node import Node
from shoal.training.admission import Ticket
from shoal.training.spec import AdmissionRule

from .test_node_discovery import STORAGE, members, running, spec_of, until


async def offered(newcomer: Node, member: Node, *, with_ticket: bool = True) -> Offer:
    """The member's one swarm, as an invite leads there."""
    (joined,) = member.swarms.all()
    invite = parse_invite(invite_to(member, joined))
    return await newcomer.swarms.look(invite if with_ticket else msgspec.structs.replace(invite, granted=None))


async def test_an_invite_lets_in_and_what_it_carries_is_remembered_over_a_restart(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running(tmp_path / "one"))
        joined = await one.swarms.create(spec_of(one), STORAGE)
        assert joined.membership.ticket is None  # the creator needs none
        async with running(tmp_path / "two") as two:
            offer = await offered(two, one)
            ticket = (await two.swarms.join(offer, STORAGE)).membership.ticket
            assert ticket == offer.ticket
            assert isinstance(ticket, Ticket)
            assert ticket.inviter == one.identity.public_key
            await until(lambda: members(one) == {two.identity.peer_id})
        folder = SwarmFolder(tmp_path / "two" / "swarms", joined.folder.swarm)
        assert folder.read()[2].ticket == ticket
        two = await stack.enter_async_context(running(tmp_path / "two", one))
        assert two.swarms.all()[0].membership.ticket == ticket
        again = await offered(await stack.enter_async_context(running(tmp_path / "three")), two)
        assert again.ticket is not None
        assert again.ticket.inviter == two.identity.public_key  # a member's own, whoever let it in


async def test_an_invite_without_a_ticket_lets_nobody_in_but_the_creator(tmp_path: Path) -> None:
    async with running(tmp_path / "one") as one, running(tmp_path / "two") as two:
        await one.swarms.create(spec_of(one), STORAGE)
        with pytest.raises(Complaint, match="carries no ticket") as caught:
            await two.swarms.join(await offered(two, one, with_ticket=False), STORAGE)
        assert caught.value.code is Exit.INVITE
        assert not two.swarms.all()
        await two.swarms.join(await offered(two, one), STORAGE)
        await until(lambda: members(two) == {one.identity.peer_id})
        await one.swarms.leave(one.swarms.all()[0])
        await one.swarms.join(await offered(one, two, with_ticket=False), STORAGE)
        await until(lambda: members(two) == {one.identity.peer_id})


async def test_a_list_lets_in_who_is_on_it_and_its_invites_carry_no_ticket(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = [
            await stack.enter_async_context(running(tmp_path / name)) for name in ("one", "two", "three")
        ]
        by_list = spec_of(one, admission=AdmissionRule.LIST.value, allowed=[two.identity.peer_id])
        await one.swarms.create(by_list, STORAGE)
        assert (await offered(two, one)).ticket is None
        await two.swarms.join(await offered(two, one), STORAGE)
        with pytest.raises(Complaint, match=f"you, {three.identity.peer_id}, are NOT on its list") as caught:
            await three.swarms.join(await offered(three, one), STORAGE)
        assert caught.value.code is Exit.INVITE


async def test_an_open_swarm_needs_no_ticket(tmp_path: Path) -> None:
    async with running(tmp_path / "one") as one, running(tmp_path / "two") as two:
        await one.swarms.create(spec_of(one, admission=AdmissionRule.OPEN.value), STORAGE)
        offer = await offered(two, one)
        assert offer.ticket is None
        await two.swarms.join(offer, STORAGE)
        await until(lambda: members(two) == {one.identity.peer_id})
