"""What `shoal doctor` says of all that the laboratory can break: nodes, homes and the command are the real ones."""

import shutil
from typing import Final

import pytest
import trio

from shoal.node.laboratory import Habits, Line
from shoal.node.routers import Router

from .doctor_stage import PORT, DoctorStage, Resident, ask_all, open_doctor_stage, start_all

LINE: Final = Line(delay_ms=5)
RELAY: Final = ("--relay", "everybody")
NO_RELAY: Final = ("--relay", "nobody")
TOWARDS: Final = "--stay-connected-to"


async def two_public(stage: DoctorStage) -> tuple[Resident, Resident, tuple[str, ...]]:
    """Nodes who relay and can dial others back, and what makes a node be connected to them."""
    one, two = [await stage.resident(await stage.internet.add_home(Router.PUBLIC, LINE)) for _ in range(2)]
    return one, two, (TOWARDS, one.address, TOWARDS, two.address)


async def test_of_each_home_it_says_whether_others_can_reach_it_and_what_is_in_between() -> None:
    async with open_doctor_stage() as stage:
        one, two, with_both = await two_public(stage)
        small_and_tcp_only = await stage.internet.add_home(
            Router.PUBLIC, Line(delay_ms=5, mtu=1280), Habits(passes_udp=False)
        )
        plain = await stage.resident(small_and_tcp_only)
        firewalled = await stage.resident(await stage.internet.add_home(Router.FIREWALLED, LINE))
        kinds = [kind for kind in Router if kind.has_nat and kind is not Router.SYMMETRIC]
        behind = {kind: await stage.resident(await stage.internet.add_home(kind, LINE)) for kind in kinds}
        await start_all(
            (one, NO_RELAY),
            (two, (*NO_RELAY, TOWARDS, one.address)),
            *((each, (*NO_RELAY, *with_both)) for each in (plain, firewalled, *behind.values())),
        )
        said = await plain.doctor_until("fine")  # neither UDP nor large packets pass, and neither is needed
        assert (said.verdict, said.is_fine, said.code) == ("fine", True, 0), said
        assert said.words("reach").startswith("public: ")
        assert said.of("clock")[0]["state"] == "ok"

        said = await firewalled.doctor_until("firewall")
        assert (said.verdict, said.is_fine, said.code) == ("firewall", False, 1), said
        assert "firewall is in between" in said.words("reach")

        for kind, each in behind.items():
            said = await each.doctor_until("router")
            assert (said.verdict, said.is_fine, said.code) == ("router", False, 1), (kind, said)
            assert "NAT" in said.words("reach")
            assert ("was refused" in said.words("reach")) == (kind is Router.RST_ROUTER)
            assert each.host.home.outside in said.words("nat")
            assert said.of("relays")[0]["state"] == "failure"

        for asks, target in ((one, firewalled.peer[-8:]), (plain, one.address)):  # the first was dialed by the other
            said = await asks.doctor(target)
            assert (said.verdict, said.is_fine) == ("fine", True), said
            assert said.of("round trip")[0]["state"] == said.of("rate")[0]["state"] == "ok"


async def test_two_behind_symmetric_routers_are_told_why_no_hole_can_be_punched() -> None:
    async with open_doctor_stage() as stage:
        one, two, with_both = await two_public(stage)
        homes = [await stage.internet.add_home(Router.SYMMETRIC, LINE) for _ in range(2)]
        left, right = [await stage.resident(home) for home in homes]
        options = (*with_both, "--relays", one.address)
        await start_all((one, RELAY), (two, (*RELAY, TOWARDS, one.address)), (left, options), (right, options))
        circuit = f"{one.address}/p2p-circuit/p2p/{right.peer}"

        said = await left.doctor_until("relayed", circuit)
        assert (said.verdict, said.is_fine, said.code) == ("relayed", True, 0), said
        assert "both sides are behind symmetric NAT" in said.words("punching"), said
        assert one.peer in said.words("connection")
        assert said.of("round trip")[0]["state"] == "ok"
        said = await left.doctor()  # nobody can dial it, but relays help: it works
        assert (said.verdict, said.is_fine, said.code) == ("router", True, 0), said
        assert said.of("relays")[0]["state"] == "ok"

        assert right.process is not None
        right.process.kill()
        await right.process.wait()
        said = await left.doctor_until("behind_relay", circuit, patience_s=40)
        assert (said.verdict, said.code) == ("behind_relay", 1), said


async def test_each_way_in_which_an_address_fails_has_its_verdict() -> None:
    async with open_doctor_stage() as stage:
        one, two, with_both = await two_public(stage)
        kinds = (Router.PUBLIC, Router.FIREWALLED, Router.RST_ROUTER)
        asks, hidden, resets = [await stage.resident(await stage.internet.add_home(kind, LINE)) for kind in kinds]
        await start_all((one, ()), (two, (TOWARDS, one.address)), (asks, with_both))
        assert (await asks.doctor_until("fine")).verdict == "fine"
        said = await asks.doctor(f"/ip4/192.168.9.9/tcp/{PORT}/p2p/{resets.peer}")  # alone: routers seldom say so
        assert (said.verdict, said.code) == ("no_route", 1), said
        cases = {
            f"{one.address.partition('/p2p/')[0]}/p2p/{hidden.peer}": "other_peer",
            hidden.address: "silent",  # a firewall drops what comes
            f"/ip4/{resets.host.home.outside}/tcp/{PORT}/p2p/{resets.peer}": "refused",  # by a router
            f"/ip4/{two.host.address}/tcp/{PORT + 1}/p2p/{resets.peer}": "refused",  # a closed port
            f"/dns4/nobody.invalid/tcp/{PORT}/p2p/{resets.peer}": "no_names",
            f"{one.address}/p2p-circuit/p2p/{resets.peer}": "behind_relay",
            f"/ip4/{one.host.address}/tcp/{PORT + 1}/p2p/{one.peer}": "fine",  # connected at another one
        }
        for (address, verdict), said in zip(
            cases.items(), await ask_all(*((asks, (address,)) for address in cases)), strict=True
        ):
            assert (said.verdict, said.code) == (verdict, int(verdict != "fine")), (address, said)
        two.host.freeze()
        said = await asks.doctor(two.address)
        two.host.thaw()
        assert (said.verdict, said.code) == ("mute", 1), said


async def test_a_cut_line_a_partition_and_no_network_are_told_apart() -> None:
    async with open_doctor_stage() as stage:
        one, two, with_both = await two_public(stage)
        cut = await stage.resident(await stage.internet.add_home(Router.PUBLIC, LINE))
        await start_all((one, ()), (two, (TOWARDS, one.address)), (cut, with_both))
        assert (await cut.doctor_until("fine")).verdict == "fine"

        await stage.internet.part([cut.host.home])
        said, seen_by_others = await ask_all((cut, ()), (two, (cut.address,)))
        assert (said.verdict, said.code) == ("cut_off", 1), said
        assert (seen_by_others.verdict, seen_by_others.code) == ("silent", 1), seen_by_others

        await cut.command("ip", "link", "set", "eth0", "down")
        said = await cut.doctor_until("no_network")
        assert (said.verdict, said.code) == ("no_network", 1), said

        await cut.command("ip", "link", "set", "eth0", "up")
        await cut.host.connect()
        await stage.internet.heal()
        said = await cut.doctor_until("fine", patience_s=40)
        assert said.verdict == "fine", said


async def test_a_clock_that_is_off_by_an_hour_is_said_in_a_line() -> None:
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("NOT TESTED: the command `faketime` is not installed here (Debian: faketime)")
    async with open_doctor_stage() as stage:
        one, two, with_both = await two_public(stage)
        late = await stage.resident(await stage.internet.add_home(Router.PUBLIC, LINE))
        await start_all((one, ()), (two, (TOWARDS, one.address)))
        await late.start(*with_both, wrapper=(faketime, "-f", "-1h"))
        said = await late.doctor_until("clock")
        assert (said.verdict, said.code) == ("clock", 1), said
        assert "s behind the clocks of 2 connected peers" in said.words("clock")
        assert {each["state"] for each in said.of("peers")} == {"ok"}  # nobody is refused for it
        said = await one.doctor()
        assert said.verdict == "fine", said  # one of two others is wrong, and which one nobody can say
        while b"clock is wrong" not in (late.data_dir / "stderr").read_bytes():  # noqa: ASYNC110
            await trio.sleep(0.1)


async def test_it_follows_a_node_that_is_carried_elsewhere_and_bears_what_lines_and_routers_lose() -> None:
    async with open_doctor_stage() as stage:
        one, two, with_both = await two_public(stage)
        lossy = await stage.resident(await stage.internet.add_home(Router.PUBLIC, Line(delay_ms=5, loss=0.05)))
        forgetful = await stage.resident(
            await stage.internet.add_home(Router.PORT_RESTRICTED, LINE, Habits(forgets_s=2))
        )
        renumbered = await stage.resident(await stage.internet.add_home(Router.PORT_RESTRICTED, LINE))
        moved = await stage.resident(await stage.internet.add_home(Router.FIREWALLED, LINE))
        await start_all(
            (one, RELAY),
            (two, (*RELAY, TOWARDS, one.address)),
            *((each, (*NO_RELAY, *with_both)) for each in (lossy, forgetful, renumbered, moved)),
        )
        said = await lossy.doctor_until("fine")
        assert (said.verdict, said.code) == ("fine", 0), said
        for each, verdict in ((forgetful, "router"), (renumbered, "router"), (moved, "firewall")):
            said = await each.doctor_until(verdict, has_relays=True)
            assert (said.verdict, said.is_fine, said.code) == (verdict, True, 0), said  # as there are relays
            assert {found["state"] for found in said.of("relays")} == {"ok"}, said

        await renumbered.host.home.change_address()
        elsewhere = await stage.internet.add_home(Router.PORT_RESTRICTED, LINE)
        await moved.host.move(elsewhere)
        for each, outside in ((renumbered, renumbered.host.home.outside), (moved, elsewhere.outside)):
            with trio.fail_after(40):
                while True:
                    said = await each.doctor_until("router", patience_s=40)
                    if outside in said.words("reach") and outside in said.words("nat"):
                        break
            assert (said.verdict, said.is_fine, said.code) == ("router", True, 0), said
