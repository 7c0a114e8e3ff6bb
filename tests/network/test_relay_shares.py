"""A relay on a slow line: no swarm takes another's share."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from shoal.node.laboratory import obstacle

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PATIENCE_S: Final = 180.0
TRIES: Final = 3  # a machine with other work gives whom it likes the processor


async def test_one_circuit_beside_eight_of_another_swarm_has_its_share_of_the_line() -> None:
    if reason := await obstacle():
        pytest.skip(f"NOT TESTED: {reason}")
    measured = [share(()) for _ in range(TRIES)]
    print("share of the lone circuit:", measured)
    assert max(measured) >= 0.35


async def test_where_the_owner_bounds_the_rate_the_shares_are_equal() -> None:
    if reason := await obstacle():
        pytest.skip(f"NOT TESTED: {reason}")
    measured = share(("--cap", "10", "--seconds", "5"))
    print("share of the lone circuit at a bounded rate:", measured)
    assert 0.4 <= measured <= 0.6


def share(options: tuple[str, ...]) -> float:
    command = [sys.executable, "-m", "bench.shares", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    return float(figures["share"])
