"""Who a node is: its Ed25519 key, the libp2p peer id that follows from it, the lock on the data directory they live in.

A peer id carries the public key itself, so anybody's signature can be checked knowing nothing but the id. A peer may
send any text as an id and any bytes as a signature; what it cannot do is make `verify` true for a key it does not hold:
ids are parsed strictly (one text per key), and libsodium refuses small-order keys, for which one signature would fit
many messages.
"""

import os
import stat
import sys
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from .port import PeerId

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

# libp2p's peer id (libp2p specs, peer-ids): the identity multihash (0x00, length) of the protobuf PublicKey
# {type: Ed25519, data}.
_PEER_ID_PREFIX: Final = bytes.fromhex("0024" + "08011220")
# libp2p's key file: the protobuf PrivateKey {type: Ed25519, data: seed, public key}. Other libp2p programs read it too.
_KEY_FILE_PREFIX: Final = bytes.fromhex("08011240")
_KEY_FILE_BYTES: Final = len(_KEY_FILE_PREFIX) + 2 * SEED_BYTES
_PEER_ID_CHARS: Final = 52

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUE: Final = {character: value for value, character in enumerate(_BASE58)}

KEYS_CACHED: Final = 4096  # parsed public keys; memory: about 0.3 KB each


class IdentityError(Exception):
    """A key file or data directory that cannot be used. The message says which and what to do."""


@lru_cache(maxsize=KEYS_CACHED)
def peer_id_of(public_key: bytes) -> PeerId:
    """The peer id of a 32-byte Ed25519 public key."""
    number = int.from_bytes(_PEER_ID_PREFIX + public_key, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return PeerId("1" + "".join(reversed(digits)))  # "1": the prefix's one leading zero byte


def public_key_of(peer: str) -> bytes | None:
    """The 32-byte public key that a peer id carries; None if it is not the id of an Ed25519 key."""
    if len(peer) != _PEER_ID_CHARS or peer[0] != "1":
        return None
    number = 0
    for character in peer:
        value = _BASE58_VALUE.get(character)
        if value is None:
            return None
        number = number * 58 + value
    size = len(_PEER_ID_PREFIX) + SEED_BYTES
    if number.bit_length() > 8 * size:
        return None
    data = number.to_bytes(size, "big")
    return data[len(_PEER_ID_PREFIX) :] if data.startswith(_PEER_ID_PREFIX) else None


@lru_cache(maxsize=KEYS_CACHED)
def _verify_key(peer: str) -> VerifyKey | None:
    public_key = public_key_of(peer)
    return None if public_key is None else VerifyKey(public_key)


def verify(peer: PeerId, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `peer`'s on `message`."""
    return _fits(_verify_key(peer), message, signature)


@lru_cache(maxsize=KEYS_CACHED)
def _public_key(public_key: bytes) -> VerifyKey | None:
    return VerifyKey(public_key) if len(public_key) == SEED_BYTES else None


def verify_by_key(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` on `message` is that of the key whose 32 public bytes these are."""
    return _fits(_public_key(public_key), message, signature)


def _fits(key: VerifyKey | None, message: bytes, signature: bytes) -> bool:
    if key is None or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        key.verify(message, signature)
    except BadSignatureError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's key pair. Obtained from `from_seed` or `load_or_create`."""

    peer_id: PeerId
    seed: bytes = field(repr=False)  # 32 bytes; whoever has them is this node
    _key: SigningKey = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> "Identity":
        """The identity of a 32-byte seed. Raises ValueError for any other length."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        key = SigningKey(seed)
        return cls(peer_id_of(bytes(key.verify_key)), seed, key)

    @classmethod
    def load_or_create(cls, path: Path) -> "Identity":
        """The identity in the key file `path`; a fresh one is made there if there is no such file.

        Raises:
            IdentityError: the file cannot be read or written, is no key file, or others can read it.
        """
        try:
            if not path.exists():
                _create_key_file(path, cls.from_seed(os.urandom(SEED_BYTES)))
            return cls.from_seed(_read_key_file(path))
        except OSError as error:
            raise IdentityError(
                f"the key file {path} cannot be used: {error.strerror}. "
                "Give its folder and the file to the user who runs the node."
            ) from error

    def write(self, path: Path) -> None:
        """Make `path` this identity's key file, unless there is one already. Raises OSError."""
        _create_key_file(path, self)

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519."""
        return self._key.sign(message).signature


def _create_key_file(path: Path, identity: Identity) -> None:
    """Put a key at `path`, whole or not at all.

    Of several processes doing so at once, one wins and all go on with its key.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(_KEY_FILE_PREFIX + identity.seed + identity.public_key)
            file.flush()
            os.fsync(descriptor)
        try:
            if sys.platform == "win32":
                os.rename(draft, path)  # there, unlike on POSIX, it refuses to replace a file
            else:
                os.link(draft, path)
                _sync_folder(path.parent)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_key_file(path: Path) -> bytes:
    """The seed in a key file. Raises IdentityError, OSError."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if sys.platform == "win32":
            warnings.warn(
                f"make sure that nobody else can read {path}: on Windows Shoal does not check it", stacklevel=4
            )
        elif status.st_mode & 0o077:
            raise IdentityError(
                f"the key file {path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}). "
                f"Run: chmod 600 {path} . "
                "If somebody may have read it, delete it instead: the node then gets a new identity."
            )
        data = file.read(_KEY_FILE_BYTES + 1)
    seed = data[len(_KEY_FILE_PREFIX) : len(_KEY_FILE_PREFIX) + SEED_BYTES]
    if len(data) != _KEY_FILE_BYTES or data != _KEY_FILE_PREFIX + seed + Identity.from_seed(seed).public_key:
        raise IdentityError(
            f"{path} is no Ed25519 key file, or it is damaged. "
            "Restore it from a backup, or delete it: the node then gets a new identity."
        )
    return seed


def _check_owner(path: Path) -> None:
    """Who can write into the directory can put a swarm there, code file and all, or a link in a file's place: the node
    would run the one and overwrite what the other leads to.

    Raises IdentityError, OSError.
    """
    if sys.platform == "win32":
        return
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise IdentityError(
            f"the data directory {path} belongs to another user (number {status.st_uid}). "
            f"Choose another with --data-dir, or, if you trust that user, run: chown -R {os.geteuid()} {path}"
        )
    if status.st_mode & 0o022:
        raise IdentityError(
            f"others can write into the data directory {path} (mode {stat.S_IMODE(status.st_mode):04o}). "
            f"Choose another with --data-dir, or, if nobody did so far, run: chmod go-w {path}"
        )


class DirectoryLock:
    """A data directory in use by this process, until `release` or the process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "DirectoryLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_directory(path: Path) -> DirectoryLock:
    """Take the data directory `path`, made if it is missing, for this process alone.

    The operating system holds the lock: after a kill -9 nothing is left to clean up.

    Raises:
        IdentityError: another process uses it, it cannot be written, or other users can write there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_owner(path)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise IdentityError(
            f"the data directory {path} cannot be used: {error.strerror}. Choose another with --data-dir."
        ) from error
    try:
        _lock_file(descriptor)
    except OSError as error:
        owner = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise IdentityError(
            f"the data directory {path} is in use by process {owner or 'unknown'}. "
            "Stop that node, or choose another with --data-dir."
        ) from error
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(descriptor)
        raise IdentityError(
            f"the data directory {path} cannot be written: {error.strerror}. Free some space."
        ) from error
    return DirectoryLock(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock_file(descriptor: int) -> None:
        os.lseek(descriptor, 2**20, os.SEEK_SET)  # a byte far behind the pid, which others must be able to read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock_file(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
