"""`shoal testnet --compare`: one member alone and synchronous training (training/baselines.py), in two processes.

A process reads a Job from standard input and writes one line of JSON for each evaluation, so that it can be shown; it
is ended with its group, and ends by itself when the testnet is gone, for then its standard input closes.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio

from shoal.training.diloco_settings import parse_settings
from shoal.training.spec import Spec, spec_from
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .complaint import Complaint, Exit
from .processes import kill_group, own_group
from .report import Baseline, Baselines, Point

Kind = Literal["alone", "synchronous"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One baseline of a swarm."""

    kind: Kind
    spec: dict[str, Any]  # as a SPEC.toml's table
    creator: str
    members: int
    rounds: int
    data_path: str | None = None
    threads: int = 1


async def compare(job: Job, observe: Callable[[Kind, Point], None]) -> Baselines:
    """Run both baselines, next to one another. `job.kind` is not used. Raises Complaint if one of them cannot run."""
    curves: dict[Kind, list[Point]] = {"alone": [], "synchronous": []}

    async def run(kind: Kind) -> None:
        def add(point: Point) -> None:
            curves[kind].append(point)
            observe(kind, point)

        await _run_process(msgspec.structs.replace(job, kind=kind), add)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "alone")
        nursery.start_soon(run, "synchronous")
    alone, synchronous = (
        Baseline(validation_loss=curves[kind][-1].validation_loss, curve=tuple(curves[kind]))
        for kind in ("alone", "synchronous")
    )
    return Baselines(alone=alone, synchronous=synchronous)


async def _run_process(job: Job, add: Callable[[Point], None]) -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "shoal.node.baselines"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **own_group(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with process.stdin, process.stdout, process.stderr:
            await process.stdin.send_all(msgspec.json.encode(job) + b"\n")
            unread = b""
            async for data in process.stdout:
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    add(msgspec.json.decode(line, type=Point))
            told = b"".join([data async for data in process.stderr]).decode(errors="replace").strip()
            if status := await process.wait():
                raise Complaint(f"the baseline '{job.kind}' failed: {told.splitlines()[-1] if told else status}")
    finally:
        if process.poll() is None:
            kill_group(process)


def spec_of(job: Job) -> Spec:
    """Raises Complaint if it is none, or none that there are baselines for."""
    spec = spec_from(job.spec, PeerId(job.creator), bytes(16))
    if isinstance(spec, Malformed):
        raise Complaint(spec.reason, Exit.SPEC)
    if spec.method != "diloco":
        raise Complaint(f"--compare knows baselines for the method diloco, not for {spec.method}", Exit.USAGE)
    return spec


def tokens_per_round(spec: Spec) -> int:
    """How many tokens one member trains on in a round. Raises Complaint."""
    settings = parse_settings(spec.settings)
    if isinstance(settings, str):
        raise Complaint(settings, Exit.SPEC)
    return settings.steps * settings.batch_size * settings.context


def read_line() -> bytes:
    """The first line of standard input. Not by sys.stdin, whose lock a waiting thread would hold at exit."""
    text = b""
    while not text.endswith(b"\n") and (data := os.read(0, 65_536)):
        text += data
    return text


def end_with_stdin() -> None:
    """End this process when the other end of its standard input is gone."""
    while os.read(0, 4096):
        pass
    os._exit(Exit.FAILED)


def main() -> int:
    """The process: a Job in, a Point a line out."""
    from shoal.training.baselines import alone, synchronous
    from shoal.training.methods import MemberOptions

    job = msgspec.json.decode(read_line(), type=Job)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    path = None if job.data_path is None else Path(job.data_path)
    options = MemberOptions(threads=job.threads, data_path=path)
    try:
        spec = spec_of(job)
        tokens = tokens_per_round(spec)
        if job.kind == "alone":
            losses = alone(spec, options, job.rounds)
        else:
            losses = synchronous(spec, options, job.members, job.rounds)
        for number, loss in enumerate(losses, 1):
            print(msgspec.json.encode(Point(number * tokens, loss)).decode(), flush=True)
    except (Complaint, ValueError) as error:  # ValueError: this machine cannot train it; the text says why
        print(error, file=sys.stderr)
        return Exit.FAILED
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
