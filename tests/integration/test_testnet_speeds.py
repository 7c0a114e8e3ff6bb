"""Members of different speed: each does as many steps as fit before the deadline, and all are in every round."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from shoal.node.async_client import connect
from shoal.node.tally import Tally

SPEEDS = (1, 1, 2, 4)
ROUNDS = 3
STEP_S = 0.2  # at speed 1

# A person's own loop, in a process of its own, slowed down by sleeping.
SCRIPT = f"""
import sys, time, torch, shoal

folder, speed, invite = sys.argv[1], float(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Linear(64, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
listen = ["/ip4/127.0.0.1/tcp/0"]
if invite == "found":
    settings = {{"steps": 10, "steps_min": 1, "steps_max": 1000}}
    spec = {{"members_start": 4, "members_min": 4, "round_s": 2.0, "rounds_max": {ROUNDS}, "settings": settings}}
    swarm = shoal.create(model, data_dir=folder, spec=spec, listen=listen)
else:
    swarm = shoal.join(invite, data_dir=folder, listen=listen)
with swarm:
    outer = swarm.diloco(model, optimizer)
    print(swarm.invite(), flush=True)
    with outer:
        generator = torch.Generator().manual_seed(int(speed))
        while outer.round <= {ROUNDS}:
            x = torch.randn(16, 64, generator=generator)
            loss = (model(x) - x[:, :8]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            time.sleep({STEP_S} / speed)
            try:
                outer.step(samples=16)
            except Exception as over:
                print(type(over).__name__, flush=True)
                break
        sys.stdin.read()
"""


@contextmanager
def member(folder: Path, speed: int, invite: str) -> Generator[str, None, None]:
    """One member's process, and the invite it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(speed), invite],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


async def told(folder: Path) -> list[dict[str, object]]:
    """A node's events up to the end of the last round."""
    events: list[dict[str, object]] = []
    async with connect(folder) as client:
        await client.watch(after=0)
        while not events or events[-1]["event"] != "Finished":
            events.append(await client.event())
    return events


async def test_members_at_speeds_1_1_2_and_4_all_contribute_in_every_round(tmp_path: Path) -> None:
    folders = [tmp_path / str(index) for index in range(len(SPEEDS))]
    with ExitStack() as stack, trio.fail_after(170):
        invite = stack.enter_context(member(folders[0], SPEEDS[0], "found"))
        for folder, speed in zip(folders[1:], SPEEDS[1:], strict=True):
            assert stack.enter_context(member(folder, speed, invite)).startswith("shoal:")
        events = [await told(folder) for folder in folders]

    names = [str(folder) for folder in folders]
    tally = Tally(names)
    samples = dict.fromkeys(names, 0)
    for name, of_one in zip(names, events, strict=True):
        for event in of_one:
            tally.add(name, event, now=0.0)
            if event["event"] == "LocalDone":
                samples[name] += int(str(event["samples"]))
    for round in range(1, ROUNDS + 1):
        assert len({tally.digest(name, round) for name in names}) == 1, json.dumps(events, indent=1)
        assert len(tally.contributors(names[0], round)) == len(SPEEDS)
    slow, _, _, fast = (samples[name] for name in names)
    assert fast > 2 * slow > 0
