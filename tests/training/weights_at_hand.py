"""SmolLM2-135M and its task where `make smollm` has put them; tests that need them say loudly where it has not."""

from functools import cache

import pytest

from shoal.training.evaluators import smol_problem
from shoal.training.registry import data_folder
from shoal.training.smollm_file import SmolFile, open_file

needs_smollm = pytest.mark.skipif(
    smol_problem(data_folder()) is not None, reason=f"NOT TESTED: {smol_problem(data_folder())}"
)


@cache
def smol_file() -> SmolFile:
    file = open_file()
    assert not isinstance(file, str), file
    return file
