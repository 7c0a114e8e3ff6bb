"""What computes a state, in a line: for the list of digests when members find that theirs differ."""

import platform
import sys
from functools import cache
from importlib import metadata

from .calls import PLATFORM_CHARS_MAX


@cache
def platform_of() -> str:
    """As "linux x86_64, python 3.12.3, numpy 2.3.5, shoal 0.1.0"."""
    parts = [f"{sys.platform} {platform.machine()}", f"python {platform.python_version()}"]
    for package in ("numpy", "shoal"):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)[:PLATFORM_CHARS_MAX]
