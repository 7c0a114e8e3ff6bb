"""One blob from one holder: between two processes, over libp2p on loopback, verified and stored.

    python -m bench.bulk [--mb 256] [--runs 3] [--profile]

The last line is JSON: {"mb_per_s"}, the median over the runs, in MB of 10^6 bytes, from asking for the blob to having
it complete on disk. A blob of 256 MB means 256 MiB. `--profile` prints where the event loops of both sides spend
their time; it slows them down, so its figures are no results.
"""

import argparse
import cProfile
import json
import pstats
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import Address, PeerId, Refusal

BUDGET_BYTES = 8 * 10**9
MIB = 2**20
LISTEN = (Address("/ip4/127.0.0.1/tcp/0"),)
SHOWN = 25


def pieces(count: int) -> Iterator[bytes]:
    generator = random.Random(1)
    return (generator.randbytes(MIB) for _ in range(count))


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def profiled(name: str, is_wanted: bool) -> Generator[None, None, None]:
    profile = cProfile.Profile()
    if is_wanted:
        profile.enable()
    yield
    if is_wanted:
        profile.disable()
        print(f"\nEvent loop of the {name}:", file=sys.stderr)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(SHOWN)


async def hold(directory: Path, mib: int, is_profiled: bool) -> None:
    """The holder: says where it is and what it holds, and serves until its input ends."""
    store = BlobStore(directory, BUDGET_BYTES)
    async with (
        open_host(Identity.from_seed(bytes(31) + b"h"), LISTEN, Limits()) as transport,
        trio.open_nursery() as nursery,
    ):
        blobs = BlobService(transport, store)
        await nursery.start(blobs.run)
        began = time.perf_counter()
        ref = await blobs.put(pieces(mib), pin="bench")
        assert isinstance(ref, BlobRef), ref
        put_s = time.perf_counter() - began
        where: dict[str, object] = {
            "address": transport.addresses()[0],
            "digest": ref.digest.hex(),
            "size": ref.size,
            "put_s": put_s,
        }
        print(json.dumps(where), flush=True)
        with profiled("holder", is_profiled):
            while await trio.to_thread.run_sync(sys.stdin.readline):
                print(json.dumps({"cpu_s": cpu_s()}), flush=True)
        nursery.cancel_scope.cancel()


async def fetch(
    address: Address, ref: BlobRef, directory: Path, runs: int, is_profiled: bool, holder_cpu_s: Callable[[], float]
) -> list[float]:
    """MB/s of each run, each into an empty store."""
    rates: list[float] = []
    peer = PeerId(address.rpartition("/p2p/")[2])
    for run in range(runs):
        store = BlobStore(directory / str(run), BUDGET_BYTES)
        async with (
            open_host(Identity.from_seed(bytes(31) + b"f"), LISTEN, Limits()) as transport,
            trio.open_nursery() as nursery,
        ):
            blobs = BlobService(transport, store)
            await nursery.start(blobs.run)
            connected = await transport.connect(address, timeout_s=10)
            assert not isinstance(connected, Refusal), connected
            holder_cpu, own_cpu, began = holder_cpu_s(), cpu_s(), time.perf_counter()
            with profiled("fetcher", is_profiled):
                refusal = await blobs.fetch(ref, lambda: [peer], pin="bench", timeout_s=300)
            assert refusal is None, refusal
            seconds = time.perf_counter() - began
            rates.append(ref.size / 1e6 / seconds)
            own_s, holder_s = cpu_s() - own_cpu, holder_cpu_s() - holder_cpu
            print(
                f"run {run + 1}: {rates[-1]:.0f} MB/s; {seconds:.2f} s, CPU {own_s:.2f} s here, {holder_s:.2f} s there"
            )
            nursery.cancel_scope.cancel()
        shutil.rmtree(directory / str(run))  # or every run waits for fresh memory for its pages
    return rates


def ask_cpu_s(holder: subprocess.Popen[str]) -> float:
    assert holder.stdin is not None
    assert holder.stdout is not None
    print("", file=holder.stdin, flush=True)
    return float(json.loads(holder.stdout.readline())["cpu_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=256, help="size of the blob in MiB")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--hold", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold is not None:
        trio.run(hold, options.hold, options.mb, options.profile)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as directory:
        command = [sys.executable, "-m", "bench.bulk", "--hold", f"{directory}/holder", "--mb", str(options.mb)]
        if options.profile:
            command.append("--profile")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            try:
                where = json.loads(holder.stdout.readline())
                ref = BlobRef(bytes.fromhex(where["digest"]), where["size"])
                print(f"the holder stored {ref.cid} at {ref.size / 1e6 / where['put_s']:.0f} MB/s, with making it up")
                fetcher = Path(directory) / "fetcher"
                address = Address(where["address"])
                rates = trio.run(
                    fetch, address, ref, fetcher, options.runs, options.profile, partial(ask_cpu_s, holder)
                )
            finally:
                holder.stdin.close()
    print(json.dumps({"mb_per_s": round(statistics.median(rates), 1)}))


if __name__ == "__main__":
    main()
