"""The data directory: taken by one process at a time, or a complaint that says why not."""

import errno
from pathlib import Path

from shoal.transport.identity import DirectoryLock, IdentityError, lock_directory

from .complaint import Complaint, Exit


def take_directory(data_dir: Path) -> DirectoryLock:
    """The lock on the data directory. Raises Complaint."""
    try:
        return lock_directory(data_dir)
    except IdentityError as error:
        raise Complaint(str(error), exit_of(error.__cause__)) from error
    except OSError as error:
        raise Complaint(f"the data directory {data_dir} cannot be used: {error.strerror}", exit_of(error)) from error


def exit_of(cause: BaseException | None) -> Exit:
    """The code for what the system answered when the data directory was to be used."""
    if isinstance(cause, BlockingIOError):
        return Exit.IN_USE
    is_full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return Exit.DISK if is_full else Exit.CONFIG
