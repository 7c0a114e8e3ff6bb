"""Real nodes in the laboratory's homes, and the command that says what is wrong with them."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from shoal.node.config import KEY_NAME
from shoal.node.laboratory import Home, Host, Internet
from shoal.transport.identity import Identity

from .hands import open_world

ROOT: Final = Path(__file__).parents[2]
SHOAL: Final = (sys.executable, "-m", "shoal")
PORT: Final = 4011
START_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Said:
    """What `shoal doctor` said."""

    code: int
    verdict: str
    is_fine: bool
    findings: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def of(self, check: str) -> list[dict[str, Any]]:
        return [each for each in self.findings if each["check"] == check]

    def words(self, check: str) -> str:
        return " | ".join(each["words"] for each in self.of(check))


class Resident:
    """A node in a home."""

    def __init__(self, stage: "DoctorStage", number: int, host: Host) -> None:
        identity = Identity.from_seed(number.to_bytes(32, "big"))
        self.host = host
        self.peer = identity.peer_id
        self.address = f"/ip4/{host.address}/tcp/{PORT}/p2p/{self.peer}"
        self.data_dir = stage.where / str(number)
        self.data_dir.mkdir(mode=0o700)
        identity.write(self.data_dir / KEY_NAME)
        self._stage = stage
        self.process: trio.Process | None = None

    async def start(self, *options: str, wrapper: Sequence[str] = ()) -> None:
        """Run it until it answers."""
        await self.begin(*options, wrapper=wrapper)
        with trio.fail_after(START_S):
            while not (self.data_dir / "api.sock").exists():  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def begin(self, *options: str, wrapper: Sequence[str] = ()) -> None:
        listen = ("--listen", f"/ip4/0.0.0.0/tcp/{PORT}")
        command = [*self.host.prefix, *wrapper, *SHOAL, "node", "--data-dir", str(self.data_dir), *listen, *options]
        with (self.data_dir / "stderr").open("wb") as log:
            self.process = await trio.lowlevel.open_process(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )
        self._stage.stack.push_async_callback(_end, self.process)

    async def doctor(self, *target: str) -> Said:
        """Asked from outside of the laboratory: by the node's Unix socket."""
        return await self._run(*SHOAL, "doctor", "--json", "--data-dir", str(self.data_dir), *target)

    async def doctor_until(
        self, verdict: str, *target: str, patience_s: float = 20.0, has_relays: bool = False
    ) -> Said:
        """Ask until it says so, and if `has_relays` that all is well with them; else what it said last."""
        ends_at = trio.current_time() + patience_s
        while True:
            said = await self.doctor(*target)
            relays = [found["state"] for found in said.of("relays")]
            is_so = said.verdict == verdict and (not has_relays or set(relays) == {"ok"})
            if is_so or trio.current_time() > ends_at:
                return said
            await trio.sleep(0.3)

    async def command(self, *command: str) -> None:
        """In its home."""
        await trio.run_process([*self.host.prefix, *command])

    async def _run(self, *command: str) -> Said:
        done = await trio.run_process(command, cwd=ROOT, check=False, capture_stdout=True, capture_stderr=True)
        assert done.stdout, done.stderr
        said = json.loads(done.stdout)
        return Said(done.returncode, said["verdict"], said["is_fine"], said["findings"])


class DoctorStage:
    """An internet, and the nodes in it. Obtained from `open_doctor_stage`."""

    def __init__(self, internet: Internet, where: Path, stack: AsyncExitStack) -> None:
        self.internet = internet
        self.where = where
        self.stack = stack
        self._count = 0

    async def resident(self, home: Home) -> Resident:
        """Somebody who moves in; the node does not run yet."""
        self._count += 1
        return Resident(self, self._count, await home.add_host())


@asynccontextmanager
async def open_doctor_stage() -> AsyncGenerator[DoctorStage]:
    """Skips the test, loudly, where there can be none."""
    where = Path(tempfile.mkdtemp(prefix="shoal-"))  # a short path: nodes are asked by Unix sockets
    try:
        async with open_world() as world, AsyncExitStack() as stack:
            yield DoctorStage(world.internet, where, stack)
    finally:
        shutil.rmtree(where, ignore_errors=True)


async def ask_all(*questions: tuple[Resident, tuple[str, ...]]) -> list[Said]:
    """At once."""
    said: dict[int, Said] = {}

    async def ask(number: int, resident: Resident, target: tuple[str, ...]) -> None:
        said[number] = await resident.doctor(*target)

    async with trio.open_nursery() as nursery:
        for number, (resident, target) in enumerate(questions):
            nursery.start_soon(ask, number, resident, target)
    return [said[number] for number in range(len(questions))]


async def start_all(*nodes: tuple[Resident, tuple[str, ...]]) -> None:
    """At once."""
    async with trio.open_nursery() as nursery:
        for resident, options in nodes:
            nursery.start_soon(_start, resident, options)


async def _start(resident: Resident, options: tuple[str, ...]) -> None:
    await resident.start(*options)


async def _end(process: trio.Process) -> None:
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()
