"""The base install, without torch: a node that relays and stores, and says clearly that it cannot train."""

import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal.node.complaint import Complaint, Exit
from shoal.node.local_client import LocalClient

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 90.0
SPEC = {
    "model": "gpt-0.2m",
    "settings": {"steps": 2, "batch_size": 2, "context": 32, "validation_windows": 2},
    "rounds_max": 2,
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes an environment of symbolic links")


@pytest.fixture(scope="module")
def python_without_torch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that sees everything installed here but torch."""
    home = tmp_path_factory.mktemp("base") / "venv"
    venv.create(home, symlinks=True, with_pip=False)
    site = home / Path(sysconfig.get_path("purelib")).relative_to(Path(sys.prefix).resolve())
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith("torch") and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    return str(home / "bin" / "python")


@contextmanager
def running(python: str, data_dir: Path) -> Generator[LocalClient]:
    """A node of this interpreter, and a connection to it."""
    command = [python, "-m", "shoal", "node", "--data-dir", str(data_dir), "--json-logs", "--nice", "0"]
    listen = ["--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1"]
    log = data_dir.with_suffix(".log").open("w")
    with log, subprocess.Popen([*command, *listen], cwd=ROOT, stdout=log, stderr=log) as node:
        try:
            with connected(data_dir, node) as client:
                yield client
        finally:
            node.kill()


def connected(data_dir: Path, node: "subprocess.Popen[bytes]") -> LocalClient:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return LocalClient(data_dir, timeout_s=TIMEOUT_S)
        except Complaint:
            assert node.poll() is None, "the node ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_training_without_torch_is_one_line_and_storing_works(tmp_path: Path, python_without_torch: str) -> None:
    with (
        running(sys.executable, tmp_path / "trainer") as trainer,
        running(python_without_torch, tmp_path / "store") as store,
    ):
        invite = trainer.call("swarm.create", spec=SPEC)["invite"]
        assert not store.call("swarm.preview", invite=invite)["is_torch_here"]
        for method, params in (("swarm.create", {"spec": SPEC}), ("swarm.join", {"invite": invite})):
            with pytest.raises(Complaint, match=r"pip install torch, or take part .* --role storage") as caught:
                store.call(method, **params)
            assert caught.value.code is Exit.MISSING
        joined = store.call("swarm.join", invite=invite, role="storage")
        assert joined["role"] == "storage"
        assert [swarm["id"] for swarm in store.call("swarm.list")] == [joined["id"]]


def test_a_testnet_without_torch_is_one_line_before_any_node_is_started(
    tmp_path: Path, python_without_torch: str
) -> None:
    command = [python_without_torch, "-m", "shoal", "testnet", "--report", str(tmp_path / "report")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == Exit.MISSING
    assert ended.stderr.endswith("pip install torch\n")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "report").exists()
