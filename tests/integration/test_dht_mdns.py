"""Nodes on a LAN find each other without an address: real nodes, real multicast, in network namespaces."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from typing import Any, Final

import pytest

from tests.dht.peers import identity
from tests.integration.mdns_lan import MODES

PATIENCE_S: Final = 40.0
NAMESPACES: Final = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-Urn"]


class Lan:
    """The process that has the bridge."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines: list[str] = []
        while (line := self._line()) != "up\n":
            self.lines.append(line)

    def look(self) -> dict[str, Any]:
        """What each node knows now."""
        assert self._process.stdin is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return {mode: json.loads(self._line()) for mode in MODES}

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the LAN is gone: what it says stands above"
        return line


@pytest.fixture
def lan() -> Generator[Lan]:
    trial = "ip link add lan type bridge && ip link add cable type veth peer name end && nsenter -t $$ -n true"
    if any(shutil.which(tool) is None for tool in ("unshare", "nsenter", "ip")):
        pytest.skip("NOT TESTED: no unshare, nsenter or ip here (Debian: util-linux, iproute2)")
    tried = subprocess.run([*NAMESPACES, "sh", "-c", trial], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"NOT TESTED: no network namespaces with bridges here: {tried.stderr.strip()}")
    command = [*NAMESPACES, sys.executable, "-m", "tests.integration.mdns_lan"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Lan(process)
    finally:
        process.communicate(timeout=PATIENCE_S)  # ends its input, and so all of it


def test_nodes_of_a_lan_find_each_other_with_no_address_given_and_others_do_not(lan: Lan) -> None:
    here, late = (identity(MODES.index(mode)).peer_id for mode in ("mdns", "late"))
    until = time.monotonic() + PATIENCE_S
    while True:
        seen = lan.look()
        if seen["mdns"]["known"] and seen["late"]["known"]:
            break
        assert time.monotonic() < until, f"nobody was found in {PATIENCE_S:g} s: {seen}"
        time.sleep(0.1)
    assert list(seen["mdns"]["known"]) == [late]
    assert list(seen["late"]["known"]) == [here]
    [address] = [each for each in seen["late"]["known"][here] if "/10.77." in each]
    assert address.startswith("/ip4/10.77.0.1/tcp/")
    for mode in ("off", "loopback"):
        assert seen[mode] == {"known": {}, "hears": False}
    assert seen["mdns"]["hears"]
