"""How many connections a peer with many ids can have others open to somebody who has nothing to do with it."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trio

from shoal.node.laboratory import Host, Line
from shoal.node.routers import Router
from shoal.transport.punching import (
    ATTEMPTS_PER_RANGE,
    ATTEMPTS_PER_RANGE_PER_S,
    DIALED_MAX,
    PORT_MIN,
    PUNCHED_MAX,
)

from .hands import end
from .test_reach import ROOT, Player, Stage, circuit_to, open_stage, relays_of

CAST: Final = str(Path(__file__).with_name("reflection_cast.py"))
LINE: Final = Line(delay_ms=5)
IDS: Final = 12
PORT: Final = 7000


async def play(stage: Stage, host: Host, *role: str) -> Player:
    """Somebody of the cast."""
    process = await trio.lowlevel.open_process(
        [*host.prefix, sys.executable, CAST, *role], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    stage.stack.push_async_callback(end, process)
    return Player(process)


@pytest.mark.parametrize("port", [PORT, PORT_MIN - 1])
async def test_a_peer_with_many_ids_has_a_victim_dialed_no_more_than_the_budget_allows(port: int) -> None:
    async with open_stage() as stage:
        (relay,) = await relays_of(stage, 1)
        home = await stage.internet.add_home(Router.PORT_RESTRICTED, LINE)
        _, said = await stage.node_on(await home.add_host(), relay)
        circuit = circuit_to(said)
        public = [await (await stage.internet.add_home(Router.PUBLIC, LINE)).add_host() for _ in range(2)]
        victim = await play(stage, public[0], "victim", str(port))
        await victim.answer()
        place = f"/ip4/{public[0].address}/tcp/{port}"
        liar = await play(stage, public[1], "liar", str(IDS), circuit, place)
        began = trio.current_time()
        said = await liar.answer()
        took_s = trio.current_time() - began
        count = (await victim.do(count=True))["connections"]
        print(port, count, round(took_s), said)
        attempts = ATTEMPTS_PER_RANGE + 1 + took_s * ATTEMPTS_PER_RANGE_PER_S
        assert count <= attempts * (PUNCHED_MAX + DIALED_MAX)
        if port >= PORT_MIN:
            assert count >= ATTEMPTS_PER_RANGE  # or nothing was tried at all
        else:
            assert count <= attempts * DIALED_MAX
