"""What a node remembers of its swarms."""

import os
from pathlib import Path

import pytest

from shoal.node.complaint import Complaint, Exit
from shoal.node.membership import (
    KNOWN_MEMBERS_MAX,
    MEMBER_NAME,
    Membership,
    SwarmFolder,
    choose,
    known_folders,
    sweep,
    with_known,
    write_whole,
)
from shoal.training.admission import make_ticket
from shoal.training.archive_reading_service import LOG_NAME
from shoal.training.namespaces import STORE_NAME
from shoal.training.spec import SignedSpec, Spec, sign_spec, swarm_id
from shoal.training.store import MemberStore
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId

CREATOR = Identity.from_seed(bytes(32))


def signed(name: str = "one") -> tuple[Spec, SignedSpec]:
    spec = Spec(creator=CREATOR.peer_id, nonce=bytes(16), name=name)
    return spec, sign_spec(spec, CREATOR)


def folder_of(root: Path, name: str = "one") -> SwarmFolder:
    spec, signed_spec = signed(name)
    folder = SwarmFolder(root, swarm_id(spec))
    folder.create(signed_spec, Membership(data="/tmp/x", known={"peer": ("/ip4/1.2.3.4/tcp/1",)}))
    return folder


def test_a_swarm_is_found_again_as_it_was_written(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (found,) = known_folders(tmp_path)
    spec, signed_spec = signed()
    assert found.swarm == folder.swarm
    assert found.read() == (signed_spec, spec, Membership(data="/tmp/x", known={"peer": ("/ip4/1.2.3.4/tcp/1",)}))
    assert folder.rounds.is_dir()


def test_a_change_replaces_what_was_remembered(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.write(Membership(is_paused=True))
    assert folder.read()[2] == Membership(is_paused=True)


def test_what_lets_this_node_in_is_remembered(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    ticket = make_ticket(CREATOR, folder.swarm, bytes(range(32)))
    folder.write(Membership(ticket=ticket, trusted=bytes(range(32))))
    assert folder.read()[2] == Membership(ticket=ticket, trusted=bytes(range(32)))
    for damaged in (b'{"ticket":["AA==","AA==","AA=="]}', b'{"trusted":"AA=="}'):
        (folder.path / MEMBER_NAME).write_bytes(damaged)
        with pytest.raises(Complaint, match="is damaged"):
            folder.read()


def test_a_member_file_of_before_there_were_tickets_is_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder.path / MEMBER_NAME).write_bytes(b'{"role":"storage","is_paused":true,"known":{}}')
    assert folder.read()[2] == Membership(role="storage", is_paused=True)


def test_leftovers_of_an_interrupted_create_or_leave_are_removed(tmp_path: Path) -> None:
    kept = folder_of(tmp_path)
    for suffix in (".new", ".left"):
        leftover = tmp_path / f"{'ab' * 32}{suffix}"
        leftover.mkdir()
        (leftover / "spec").write_bytes(b"half")
    (tmp_path / ("cd" * 32) / "rounds").mkdir(parents=True)  # a worker that wrote after its swarm was left
    assert [folder.swarm for folder in known_folders(tmp_path)] == [kept.swarm]
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [kept.path.name]


def test_a_swarm_is_chosen_by_id_beginning_or_name_and_else_said_which_there_are() -> None:
    known = {"ab" * 32: "plays", "ac" * 32: "songs", "cd" * 32: "songs"}
    assert choose("ab", known) == choose("plays", known) == choose(None, {"ab" * 32: "plays"}) == "ab" * 32
    for name in ("a", "songs", None):
        with pytest.raises(Complaint, match="say which swarm"):
            choose(name, known)
    with pytest.raises(Complaint, match="only in"):
        choose("other", known)
    with pytest.raises(Complaint, match="create"):
        choose(None, {})


def test_a_removed_swarm_is_gone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.remove()
    assert list(known_folders(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_who_comes_back_to_a_swarm_finds_its_own_history_there(tmp_path: Path, is_interrupted: bool) -> None:
    folder = folder_of(tmp_path)
    for name in (STORE_NAME, LOG_NAME):
        (folder.rounds / name).write_bytes(b"history")
    sequence = MemberStore(folder.rounds).next_sequence()
    (folder.rounds / "head").write_bytes(b"round")
    if is_interrupted:
        os.rename(folder.path, folder.path.with_suffix(".left"))
        sweep(tmp_path)
    else:
        folder.remove()
    sweep(tmp_path)
    assert list(known_folders(tmp_path)) == []
    folder = folder_of(tmp_path)
    for name in (STORE_NAME, LOG_NAME):
        assert (folder.rounds / name).read_bytes() == b"history"
    assert MemberStore(folder.rounds).next_sequence() == sequence + 1
    assert not (folder.rounds / "head").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.path.name]


@pytest.mark.parametrize("name", ["spec", "member.json"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"{}" * 40])
def test_a_damaged_folder_is_told_by_its_path(tmp_path: Path, name: str, content: bytes) -> None:
    folder = folder_of(tmp_path)
    (folder.path / name).write_bytes(content)
    with pytest.raises(Complaint, match="is damaged") as caught:
        folder.read()
    assert caught.value.code is Exit.CONFIG
    assert str(folder.path) in str(caught.value)


def test_the_spec_of_another_swarm_does_not_pass(tmp_path: Path) -> None:
    one, other = folder_of(tmp_path, "one"), folder_of(tmp_path, "other")
    (one.path / "spec").write_bytes((other.path / "spec").read_bytes())
    with pytest.raises(Complaint, match="not the one this swarm id names"):
        one.read()


def test_only_so_many_members_are_remembered_and_the_latest_stay() -> None:
    membership = Membership()
    for number in range(KNOWN_MEMBERS_MAX + 10):
        membership = with_known(membership, PeerId(f"peer {number}"), (Address(f"/ip4/1.2.3.4/tcp/{number + 1}"),))
    assert len(membership.known) == KNOWN_MEMBERS_MAX
    assert list(membership.known)[-1] == f"peer {KNOWN_MEMBERS_MAX + 9}"
    assert "peer 9" not in membership.known


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    os.mkdir(tmp_path / "file.new")  # in the way of the draft
    with pytest.raises(OSError, match="directory"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"same")
    os.mkdir(tmp_path / "file.new")  # in the way of a draft, as a full disk would be
    write_whole(path, b"same")
    assert path.read_bytes() == b"same"
