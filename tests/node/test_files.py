"""How many files the system lets a node have open."""

import subprocess
import sys

import pytest

ASK = """
import resource
from shoal.node.app import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
allow_files(256, 64)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
@pytest.mark.parametrize(
    ("soft", "hard", "then", "is_told"), [(256, 4096, 832, False), (2048, 4096, 2048, False), (100, 300, 300, True)]
)
def test_a_low_limit_is_raised_as_far_as_needed_and_allowed(soft: int, hard: int, then: int, is_told: bool) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK.format(soft=soft, hard=hard)], capture_output=True, text=True, check=True
    )
    assert asked.stdout.splitlines()[-1].split() == [str(then), str(hard)]
    assert ("allows few open files" in asked.stdout + asked.stderr) == is_told
