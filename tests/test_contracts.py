"""The import contracts in pyproject.toml cover the whole tree: a new module is a core unless its name says shell."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Shells are recognizable by name: *_service.py, memory*.py and these.
SHELLS = {
    "blob_disk", "blob_file", "blob_pins", "blob_store", "blob_stream", "bulk", "host", "store", "service",
    "handling", "link", "loop", "port", "stream_call",
}  # fmt: skip

CORES_OF_NODE = {"shoal.node.chaos", "shoal.node.diagnosis"}  # all else there waits


def is_shell(module: str) -> bool:
    return module in SHELLS or module.endswith("_service") or module.startswith("memory")


def test_every_core_is_held_free_of_io_by_a_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (listed,) = [set(contract["source_modules"]) for contract in contracts if contract["name"].startswith("Cores")]
    cores = {
        f"shoal.{layer}.{path.stem}"
        for layer in ("transport", "crdt", "dht", "training")
        for path in (ROOT / layer).glob("*.py")
        if path.stem != "__init__" and not is_shell(path.stem)
    }
    assert listed == cores | CORES_OF_NODE
