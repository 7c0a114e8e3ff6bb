"""The command `shoal` as people use it: real processes, their output and exit codes."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.node.complaint import Complaint, Exit
from shoal.node.local_client import LocalClient

ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = """\
name = "tiny"
model = "gpt-0.2m"
members_start = 2
rounds_max = 2
[settings]
steps = 2
batch_size = 2
context = 32
validation_windows = 2
"""
LOCAL = ("--listen", "/ip4/127.0.0.1/tcp/0", "--nice", "0", "--threads", "1")
TIMEOUT_S = 90.0


def shoal(*arguments: object, code: int = 0, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command to its end and check its exit code; errors are one line without a traceback."""
    command = [sys.executable, "-m", "shoal", *map(str, arguments)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, input=stdin
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def shoal_json(*arguments: object) -> Any:
    return json.loads(shoal(*arguments, "--json").stdout)


class Foreground:
    """A command that became the node. Its log goes nowhere: a pipe that nobody reads would stop it."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-u", "-m", "shoal", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout
        self.seen = ""

    def until(self, text: str) -> str:
        """Its output up to and with the line that contains `text`."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.seen:
            ready, _, _ = select.select([self._output], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"waited in vain for {text!r}; seen: {self.seen}"
            chunk = os.read(self._output.fileno(), 65_536)
            assert chunk, f"the command ended before {text!r}; seen: {self.seen}"
            self.seen += chunk.decode()
        return self.seen

    def __enter__(self) -> "Foreground":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "SPEC.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running node in no swarm."""
    data_dir = tmp_path_factory.mktemp("cli") / "node"
    with Foreground("node", "--data-dir", data_dir, *LOCAL) as running:
        deadline = time.monotonic() + TIMEOUT_S
        while not is_up(data_dir):
            assert running.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield data_dir


def is_up(data_dir: Path) -> bool:
    try:
        LocalClient(data_dir).close()
    except Complaint:
        return False
    return True


COMMANDS = (
    (),
    ("node",),
    ("config",),
    *(("config", verb) for verb in ("init", "show", "check")),
    ("swarm",),
    *(("swarm", verb) for verb in ("create", "join", "invite", "list", "show", "leave")),
    *(("swarm", verb) for verb in ("remove", "vouch", "fork")),
    *((command,) for command in ("status", "peers", "generate", "pause", "resume")),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    text = shoal(*command, "--help").stdout
    assert text.startswith(f"usage: {' '.join(('shoal', *command))}")
    assert "--json" in text
    assert f"\n  shoal {' '.join(command)}" in text
    if command not in ((), ("config",), ("swarm",)):
        assert f"examples:\n  shoal {' '.join(command)}" in text or "\n  watch -n 2 shoal status" in text


@pytest.mark.parametrize(
    "command",
    [
        ("status",), ("peers",), ("generate",), ("pause",), ("resume",),
        ("swarm", "list"), ("swarm", "show"), ("swarm", "invite"), ("swarm", "leave"), ("swarm", "fork"),
        ("swarm", "remove", "3Fx9aQ2b"), ("swarm", "vouch", "3Fx9aQ2b", "--votes", "1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_needs_a_node_and_finds_none_says_how_to_start_one(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    result = shoal(*command, "--data-dir", tmp_path, code=Exit.NO_NODE)
    assert result.stdout == ""
    assert result.stderr.startswith("shoal: no node is running here, start one with `shoal node`")
    assert result.stderr.count("\n") == 1


def test_wrong_usage_is_two() -> None:
    assert "invalid choice: 'stats'" in shoal("stats", code=Exit.USAGE).stderr
    both = shoal("testnet", "--network", "home", "--chaos", "1", code=Exit.USAGE).stderr
    assert "give one of them" in both
    assert "required: INVITE" in shoal("swarm", "join", code=Exit.USAGE).stderr
    assert "required: --votes" in shoal("swarm", "vouch", "3Fx9aQ2b", code=Exit.USAGE).stderr


def test_who_would_found_a_swarm_without_training_is_told_before_a_node_is_started(tmp_path: Path) -> None:
    result = shoal("swarm", "create", "--role", "storage", "--data-dir", tmp_path, code=Exit.USAGE)
    assert "who founds a swarm trains in it" in result.stderr
    assert "shoal swarm join INVITE --role storage" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1/p2p/nobody"])
def test_a_peer_that_cannot_be_one_is_told_at_the_start(tmp_path: Path, address: str) -> None:
    result = shoal("node", "--data-dir", tmp_path, *LOCAL, "--stay-connected-to", address, code=Exit.CONFIG)
    assert result.stderr == f"shoal: stay_connected_to: {address} does not end in /p2p/<peer id>\n"


INTERRUPTED = """\
import sys
class Ctrl:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("trio"):
            raise KeyboardInterrupt
sys.meta_path.insert(0, Ctrl())
from shoal.node.cli import main
sys.exit(main(["status"]))
"""


def test_ctrl_c_while_the_command_is_still_loading_is_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (result.returncode, result.stderr) == (Exit.INTERRUPTED, "interrupted\n")


def test_a_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shoal", "-v", "status", "--data-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("shoal: no node is running here")


def test_options_may_stand_before_or_after_the_command(tmp_path: Path) -> None:
    for arguments in (("--data-dir", tmp_path, "config", "show"), ("config", "show", "--data-dir", tmp_path)):
        assert f"# data directory: {tmp_path}" in shoal(*arguments).stdout


def test_config_init_show_and_check(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert "wrote" in shoal("config", "init", "--data-dir", tmp_path).stdout
    assert "is there already" in shoal("config", "init", "--data-dir", tmp_path, code=Exit.CONFIG).stderr
    assert shoal_json("config", "check", "--data-dir", tmp_path) == {"ok": True, "path": str(path)}
    path.write_text("threads = 3\n")
    assert shoal_json("config", "show", "--data-dir", tmp_path, "--nice", "7")["threads"] == 3
    assert shoal_json("config", "show", "--data-dir", tmp_path, "--threads", "2")["threads"] == 2
    path.write_text("thread = 3\n")
    assert "did you mean 'threads'?" in shoal("config", "check", "--data-dir", tmp_path, code=Exit.CONFIG).stderr


@pytest.mark.parametrize(
    ("invite", "expected"),
    [("nonsense", "an invite begins with 'shoal:'"), ("shoal:abc", "mistyped or incomplete"), ("shoal:", "mistyped")],
)
def test_a_mistyped_invite_is_told_before_a_node_is_started(tmp_path: Path, invite: str, expected: str) -> None:
    result = shoal("swarm", "join", invite, "--data-dir", tmp_path, code=Exit.INVITE)
    assert expected in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name = ", "is not TOML"),
        ('modle = "gpt-0.2m"', "spec key 'modle' is unknown"),
        ('model = "gpt-9z"', "model 'gpt-9z' is not known here"),
        ("members_min = 5", "does not hold"),
    ],
)
def test_a_bad_spec_is_one_line(node: Path, tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "SPEC.toml"
    path.write_text(content)
    result = shoal("swarm", "create", path, "--data-dir", node, code=Exit.SPEC)
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_spec_that_is_not_there_is_one_line(node: Path, tmp_path: Path) -> None:
    result = shoal("swarm", "create", tmp_path / "absent", "--data-dir", node, code=Exit.SPEC)
    assert "cannot read" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_node_in_no_swarm_says_so(node: Path) -> None:
    assert "`shoal swarm create` makes one" in shoal("swarm", "list", "--data-dir", node).stdout
    assert shoal_json("swarm", "list", "--data-dir", node) == []
    assert "this node is in no swarm" in shoal("swarm", "show", "--data-dir", node, code=Exit.FAILED).stderr
    status = shoal("status", "--data-dir", node).stdout
    assert "swarms    none" in status
    assert shoal_json("status", "--data-dir", node)["data_dir"] == str(node)
    assert "nobody is connected" in shoal("peers", "--data-dir", node).stdout


def test_the_first_five_minutes(node: Path, spec: Path, tmp_path: Path) -> None:
    """create at a running node; join where none runs; look at it from a third terminal."""
    created = shoal("swarm", "create", spec, "--data-dir", node).stdout
    invite = next(word for word in created.split() if word.startswith("shoal:"))
    other = tmp_path / "other"

    declined = shoal("swarm", "join", invite, "--data-dir", other, *LOCAL, code=Exit.DECLINED, stdin="n\n")
    for word in (
        "method    diloco",
        "model     gpt-0.2m",
        "data      shakespeare",
        "let in    by this",
        "disk",
        "memory",
        "time",
    ):
        assert word in declined.stdout
    asked = shoal("swarm", "join", invite, "--data-dir", other, *LOCAL, "--json", code=Exit.DECLINED, stdin="n\n")
    assert asked.stdout == ""  # standard output is for JSON alone
    assert "method    diloco" in asked.stderr
    assert (
        "nobody is there to ask"
        in shoal("swarm", "join", invite, "--data-dir", other, *LOCAL, code=Exit.DECLINED).stderr
    )

    with Foreground("swarm", "join", invite, "--data-dir", other, "--yes", *LOCAL) as joined:
        joined.until("this terminal is the node now")
        assert "joined swarm tiny" in joined.seen
        with LocalClient(other) as client:
            while not client.call("swarm.show")["round"]:
                time.sleep(0.1)
        assert shoal_json("swarm", "show", "--data-dir", other)["round"] >= 1
        assert "swarm     tiny" in shoal("status", "--data-dir", other).stdout
        assert "direct" in shoal("peers", "--data-dir", other).stdout
        assert "tiny" in shoal("swarm", "list", "--data-dir", other).stdout
        assert "settings.steps" in shoal("swarm", "show", "tiny", "--data-dir", other).stdout
        text = shoal("generate", "--prompt", "ROMEO:", "--bytes", 30, "--data-dir", other).stdout
        assert text.startswith("ROMEO:")
        long = shoal_json("generate", "--prompt", "ROMEO:", "--bytes", 450, "--data-dir", other)
        assert len(long["text"].encode()) >= 450  # in three pieces
        assert long["prompt"] == "ROMEO:"
        assert "rests" in shoal("pause", "--data-dir", other).stdout
        assert "paused" in shoal("status", "--data-dir", other).stdout
        assert "goes on" in shoal("resume", "--data-dir", other).stdout
        assert shoal("swarm", "invite", "--data-dir", other).stdout.startswith("shoal:")
        assert "--data-dir DIR" in shoal("swarm", "join", invite, "--yes", "--data-dir", other, code=Exit.FAILED).stderr
        joined.process.send_signal(signal.SIGINT)
        assert joined.process.wait(10) == 0
    assert "left swarm tiny" in shoal("swarm", "leave", "tiny", "--data-dir", node).stdout


def test_who_would_not_be_let_in_is_told_why_and_not_asked(node: Path, spec: Path, tmp_path: Path) -> None:
    spec.write_text('admission = "list"\n' + spec.read_text())
    invite = shoal_json("swarm", "create", spec, "--data-dir", node)["invite"]
    refused = shoal("swarm", "join", invite, "--data-dir", tmp_path / "other", *LOCAL, code=Exit.INVITE)
    assert "let in    you, 12D3KooW" in refused.stdout
    assert "[y/N]" not in refused.stdout
    assert "are NOT on its list: ask the creator" in refused.stderr
    shoal("swarm", "leave", "tiny", "--data-dir", node)


def test_create_without_a_file_writes_and_uses_the_default_spec(tmp_path: Path) -> None:
    with Foreground("swarm", "create", "--data-dir", tmp_path, *LOCAL) as created:
        created.until("this terminal is the node now")
        assert "created swarm shakespeare" in created.seen
        assert "shoal swarm join shoal:" in created.seen
        assert (tmp_path / "spec.toml").read_text().startswith("# What a swarm trains")
        created.process.send_signal(signal.SIGTERM)
        assert created.process.wait(10) == 0
    (tmp_path / "spec.toml").write_text(SPEC)
    with Foreground("swarm", "create", "--data-dir", tmp_path, *LOCAL) as created:
        created.until("created swarm tiny")
        assert len(shoal_json("swarm", "list", "--data-dir", tmp_path)) == 2
        assert "say which swarm" in shoal("swarm", "show", "--data-dir", tmp_path, code=Exit.USAGE).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_person_at_a_terminal_is_asked(node: Path, spec: Path, tmp_path: Path) -> None:
    invite = shoal_json("swarm", "create", spec, "--data-dir", node)["invite"]
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "shoal", "swarm", "join", invite, "--data-dir", str(tmp_path / "new"), *LOCAL]
    with subprocess.Popen(command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL) as joining:
        os.close(terminal)
        try:
            seen = read_until(controller, b"Join tiny? [y/N]")
            assert b"gpt-0.2m" in seen
            os.write(controller, b"y\n")
            read_until(controller, b"this terminal is the node now")
            joining.send_signal(signal.SIGTERM)
            assert joining.wait(10) == 0
        finally:
            joining.kill()
            os.close(controller)
    shoal("swarm", "leave", "tiny", "--data-dir", node)


def read_until(descriptor: int, text: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + TIMEOUT_S
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(descriptor, 4096)
    return seen
