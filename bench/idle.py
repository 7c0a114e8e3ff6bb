"""Memory of an idle node without torch, and what libp2p's imports consist of.

    python -m bench.idle

The last line is JSON: {"rss_mb"}, resident memory in MB of 10^6 bytes some seconds after the node is ready. Linux only.
"""

import argparse
import builtins
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

START_S = 60.0
FORBIDDEN = ("torch", "numpy")  # an idle node must not have loaded them
SHOWN = 14


def rss_bytes(process: str = "self") -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{process}/status has no VmRSS")


def import_costs(module: str) -> Counter[str]:
    """Bytes that importing `module` adds to this process, by the package of others that it imported for it.

    What such a package imports in turn is counted with it; what several import, with the first.
    """
    costs: Counter[str] = Counter()
    own = module.partition(".")[0]
    real_import = builtins.__import__
    is_inside = False

    def measured(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> ModuleType:
        nonlocal is_inside
        package = name.partition(".")[0]
        if is_inside or level > 0 or package == own:
            return real_import(name, globals, locals, fromlist, level)
        is_inside, before = True, rss_bytes()
        try:
            return real_import(name, globals, locals, fromlist, level)
        finally:
            is_inside = False
            costs[package] += rss_bytes() - before

    before = rss_bytes()
    builtins.__import__ = measured
    try:
        measured(module)
    finally:
        builtins.__import__ = real_import
    costs[f"{module} itself"] = rss_bytes() - before - costs.total()
    return costs


def print_import_costs(module: str) -> None:
    before = rss_bytes()
    costs = import_costs(module)
    print(f"interpreter {before / 1e6:.1f} MB; importing {module} adds {costs.total() / 1e6:.1f} MB:")
    shown = costs.most_common(SHOWN)
    for package, cost in shown:
        print(f"  {cost / 1e6:6.1f} MB  {package}")
    print(f"  {(costs.total() - sum(cost for _, cost in shown)) / 1e6:6.1f} MB  {len(costs) - len(shown)} others")


def idle_node(settle_s: float) -> float:
    """MB of a node that has nothing to do."""
    with tempfile.TemporaryDirectory() as data_dir:
        command = [sys.executable, "-m", "shoal", "node", "--data-dir", data_dir, "--json-logs"]
        with subprocess.Popen(
            [*command, "--listen", "/ip4/127.0.0.1/tcp/0"], stderr=subprocess.PIPE, text=True
        ) as node:
            assert node.stderr is not None
            try:
                wait_until_ready(node)
                time.sleep(settle_s)
                loaded = Path(f"/proc/{node.pid}/maps").read_text()
                found = [name for name in FORBIDDEN if f"/{name}/" in loaded]
                if found:
                    raise SystemExit(f"an idle node has loaded {', '.join(found)}: import it lazily")
                return rss_bytes(str(node.pid)) / 1e6
            finally:
                node.send_signal(signal.SIGTERM)


def wait_until_ready(node: "subprocess.Popen[str]") -> None:
    assert node.stderr is not None
    seen: list[str] = []
    for line in node.stderr:
        seen.append(line)
        if line.startswith("{") and json.loads(line)["event"] == "ready":
            return
    raise SystemExit(f"the node did not start:\n{''.join(seen)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description="Memory of an idle node without torch.")
    parser.add_argument("--settle-s", type=float, default=5.0, help="how long the node idles before it is measured")
    parser.add_argument("--imports-of", metavar="MODULE", help="only print what importing this module costs")
    arguments = parser.parse_args()
    if arguments.imports_of:
        print_import_costs(arguments.imports_of)
        return
    for module in ("libp2p", "shoal.node.app"):
        # Each in a process of its own: what is loaded once costs nothing again.
        subprocess.run([sys.executable, "-m", "bench.idle", "--imports-of", module], check=True)
    print(json.dumps({"rss_mb": round(idle_node(arguments.settle_s), 1)}))


if __name__ == "__main__":
    main()
