"""What the disk under the blobs tells of itself, and what is said when it has no room."""

import errno
import shutil
from pathlib import Path
from typing import Final

from .port import Code, Refusal

FREE_BYTES_MIN: Final = 256 * 2**20  # a guest leaves the owner's disk this much


def free_bytes_of(directory: Path) -> int:
    """What the disk of `directory` has left."""
    return shutil.disk_usage(directory).free


def boot_id() -> str:
    """What changes with every start of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def budget_refusal(budget_bytes: int, kept_bytes: int, needed: int) -> Refusal:
    """The blobs' own share of the disk is used up."""
    return Refusal(
        Code.REFUSED,
        f"the budget for blobs is full: of {budget_bytes} bytes {kept_bytes} are pinned or being written, "
        f"{needed} more are needed; raise the budget or leave a swarm",
    )


def disk_refusal(error: OSError) -> Refusal:
    """What the disk answered to a write, in words for its owner."""
    reason = error.strerror or str(error)  # str() of what the system answers opens with its number
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Refusal(Code.REFUSED, f"the disk is full: {reason}; make room, {FREE_BYTES_MIN} bytes are kept free")
    return Refusal(Code.REFUSED, f"the disk failed: {reason}")
