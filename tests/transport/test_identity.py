"""The node's key, its peer id, its file and its lock."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.pb.crypto_pb2 import KeyType, PrivateKey
from libp2p.peer.id import ID

from shoal.transport.identity import Identity, IdentityError, lock_directory, peer_id_of, public_key_of, verify
from shoal.transport.port import PeerId

SEED = bytes(range(32))
seeds = st.binary(min_size=32, max_size=32)


@given(seeds)
def test_the_peer_id_is_libp2ps(seed: bytes) -> None:
    assert Identity.from_seed(seed).peer_id == ID.from_pubkey(create_new_key_pair(seed).public_key).to_base58()


@given(st.binary(min_size=32, max_size=32))
def test_a_peer_id_carries_the_public_key(key: bytes) -> None:
    assert public_key_of(peer_id_of(key)) == key


@given(
    st.one_of(
        st.text(max_size=80),
        st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=52, max_size=52),
    )
)
def test_any_text_is_a_peer_id_in_its_one_form_or_none(text: str) -> None:
    key = public_key_of(text)
    assert key is None or peer_id_of(key) == text


def test_other_kinds_of_peer_id_are_refused() -> None:
    for text in ("", "1" * 52, "z" * 52, "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "12D3KooW" + "z" * 44):
        assert public_key_of(text) is None
        assert not verify(PeerId(text), b"", bytes(64))


@given(seeds, st.binary(max_size=100))
def test_a_signature_holds_for_its_message_and_signer_alone(seed: bytes, message: bytes) -> None:
    identity = Identity.from_seed(seed)
    other = Identity.from_seed(bytes([seed[0] ^ 1]) + seed[1:])
    signature = identity.sign(message)
    assert len(signature) == 64
    assert verify(identity.peer_id, message, signature)
    assert not verify(identity.peer_id, message + b"\0", signature)
    assert not verify(other.peer_id, message, signature)


@given(st.binary(max_size=70))
def test_any_bytes_are_no_signature(signature: bytes) -> None:
    assert not verify(Identity.from_seed(SEED).peer_id, b"message", signature)


def test_a_small_order_key_signs_nothing() -> None:
    for point in (bytes([1]) + bytes(31), bytes(32), b"\xec" + b"\xff" * 30 + b"\x7f"):
        assert not verify(peer_id_of(point), b"anything", bytes([1]) + bytes(63))


def test_the_key_file_is_libp2ps_private_key_in_protobuf(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "key")
    message = PrivateKey.FromString((tmp_path / "key").read_bytes())
    assert message.key_type == KeyType.Ed25519
    assert message.data == identity.seed + identity.public_key


def test_a_given_identity_can_be_written_and_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Identity.from_seed(SEED).write(path)
    Identity.from_seed(bytes(32)).write(path)
    assert Identity.load_or_create(path) == Identity.from_seed(SEED)


def test_a_created_key_is_found_again_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    first = Identity.load_or_create(path)
    assert Identity.load_or_create(path) == first
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    Identity.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=rf"mode {mode:04o}.*chmod 600 {path}"):
        Identity.load_or_create(path)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Identity.load_or_create(path)
    good = path.read_bytes()
    swapped = good[:36] + Identity.from_seed(SEED).public_key
    for data in (b"", good[:-1], good + b"\0", b"x" + good[1:], swapped):
        path.write_bytes(data)
        with pytest.raises(IdentityError, match="damaged"):
            Identity.load_or_create(path)


def test_a_key_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot be used"):
        Identity.load_or_create(tmp_path)  # a folder
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="cannot be used"):
        Identity.load_or_create(tmp_path / "file" / "key")


def test_the_seed_is_not_shown() -> None:
    assert repr(SEED) not in repr(Identity.from_seed(SEED))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_seed(bytes(length))


def test_a_locked_directory_is_refused_naming_the_process(tmp_path: Path) -> None:
    with lock_directory(tmp_path / "data"):
        program = (
            "import sys, pathlib; from shoal.transport.identity import *\n"
            "try: lock_directory(pathlib.Path(sys.argv[1]))\n"
            "except IdentityError as error: print(error)"
        )
        result = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "data")], capture_output=True, text=True, check=True
        )
        assert f"in use by process {os.getpid()}." in result.stdout
    lock_directory(tmp_path / "data").release()


def test_a_directory_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, os, signal; from shoal.transport.identity import *\n"
        "lock = lock_directory(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    lock_directory(tmp_path).release()


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="--data-dir"):
        lock_directory(tmp_path / "file" / "data")


@pytest.mark.skipif(sys.platform == "win32", reason="file modes are not checked there")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720, 0o702])
def test_a_directory_into_which_others_can_write_is_refused_before_anything_in_it_is_touched(
    tmp_path: Path, mode: int
) -> None:
    (tmp_path / "data").mkdir()
    precious = tmp_path / "precious"
    precious.write_text("of the victim")
    (tmp_path / "data" / "lock").symlink_to(precious)
    (tmp_path / "data").chmod(mode)
    with pytest.raises(IdentityError, match=rf"others can write.*{mode:04o}.*chmod go-w"):
        lock_directory(tmp_path / "data")
    assert precious.read_text() == "of the victim"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    os.chown(tmp_path / "data", 12_345, -1)
    with pytest.raises(IdentityError, match=r"another user .number 12345."):
        lock_directory(tmp_path / "data")
