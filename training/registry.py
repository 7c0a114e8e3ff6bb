"""Where on this machine the data of a swarm's tasks lie, and what can be computed again: one place for all nodes.

Not the data directory of a node: several nodes of one machine read the same sentences, and share one cache. Nothing
here comes from a peer.
"""

from pathlib import Path

import platformdirs


def data_folder() -> Path:
    """What `make smollm` puts there: real data that are never vendored and never fetched at run time."""
    return platformdirs.user_data_path("shoal", appauthor=False) / "data"


def cache_folder() -> Path:
    """What may be deleted at any time: it is computed again."""
    return platformdirs.user_cache_path("shoal", appauthor=False)
