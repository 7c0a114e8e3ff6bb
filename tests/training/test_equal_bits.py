"""What members must agree on has the same bits under every instruction set, thread count and rounding environment."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np

PROGRAM = Path(__file__).with_name("equal_bits.py")
ROOT = PROGRAM.parents[2]


def environments() -> Iterator[dict[str, str]]:
    """torch's kernels x threads x MKL's reproducibility, each with one of numpy's and of its BLAS' in turn."""
    here = np.show_config("dicts")["SIMD Extensions"][
        "found"
    ]  # what this numpy has kernels for and this processor can run, simplest first
    disabled = itertools.cycle([" ".join(here[kept:]) for kept in range(len(here) + 1)])
    blas = itertools.cycle(("", "Prescott", "Nehalem", "Haswell"))
    for kernels, threads, mkl in itertools.product(("", "default", "avx2"), ("1", "2"), ("", "COMPATIBLE")):
        settings = {
            "ATEN_CPU_CAPABILITY": kernels,
            "OMP_NUM_THREADS": threads,
            "MKL_CBWR": mkl,
            "NPY_DISABLE_CPU_FEATURES": next(disabled),
            "OPENBLAS_CORETYPE": next(blas),
        }
        yield {name: value for name, value in settings.items() if value}


def digests(environment: Mapping[str, str], *arguments: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NPY_")}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def digests_here() -> str:
    return digests({})


def test_all_environments_give_the_same_bits() -> None:
    chosen = list(environments())
    if not os.environ.get("SHOAL_SOAK"):
        chosen = chosen[::3]  # 4 of 12: each kind of kernels, both thread counts, three of numpy's instruction sets
    first = digests_here()
    assert len(first.splitlines()) == 36
    for environment in chosen:
        assert digests(environment) == first, environment


def test_the_bits_are_those_of_all_machines_so_far() -> None:
    """Fails on hardware whose nodes could not train with others', and where a change of code needs another
    `method_version`. Recorded on x86-64.
    """
    assert digests_here() == PROGRAM.with_suffix(".txt").read_text()


def test_flushing_denormals_to_zero_changes_nothing() -> None:
    assert digests({}, "flush") == digests_here()
