"""Shoal's public Python API, imported lazily: `import shoal` loads neither torch nor libp2p."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if not (Path(__path__[0]) / "node").is_dir():
    # In a checkout the layers are symbolic links beside this file. Git on Windows may write links as text
    # files; the folders they name then stand one level up, and this finds them there.
    __path__.append(str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from shoal.node.complaint import Complaint
    from shoal.node.library import Swarm, create, join
    from shoal.training.loop import SwarmEnded

__version__ = "0.1.0"
__all__ = ["Complaint", "Swarm", "SwarmEnded", "__version__", "create", "join"]

_HOMES = {
    "Complaint": "shoal.node.complaint",
    "Swarm": "shoal.node.library",
    "SwarmEnded": "shoal.training.loop",
    "create": "shoal.node.library",
    "join": "shoal.node.library",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")
