"""A node writes once it is known not to begin a second history."""

from shoal.crdt.guard import ANSWERS_MAX, PATIENCE_S, Guard, Standing
from shoal.transport.port import PeerId


def standing(guard: Guard) -> Standing:
    return guard.standing


def test_nobody_writes_before_a_peer_has_answered_and_who_forked_never() -> None:
    guard = Guard()
    guard.look(1e9)
    assert standing(guard) is Standing.ASKING
    assert standing(Guard(is_damaged=True)) is Standing.ASKING
    forked = Guard(has_ended=True)
    for number in range(ANSWERS_MAX):
        forked.agrees(PeerId(str(number)), 0.0)
    assert standing(forked) is Standing.REFUSES


def test_one_answer_is_enough_after_a_while_and_several_at_once() -> None:
    guard = Guard()
    guard.look(1000.0)
    assert standing(guard) is Standing.ASKING
    guard.agrees(PeerId("a"), 1000.0)
    guard.agrees(PeerId("a"), 1000.5)
    assert standing(guard) is Standing.ASKING
    assert guard.deadline == 1000.0 + PATIENCE_S
    guard.look(guard.deadline)
    assert standing(guard) is Standing.WRITES
    guard = Guard()
    for number in range(ANSWERS_MAX):
        guard.agrees(PeerId(str(number)), 0.0)
    assert standing(guard) is Standing.WRITES


def test_an_own_operation_that_the_disk_lacks_ends_writing_for_good() -> None:
    guard = Guard()
    guard.came_back()
    for number in range(ANSWERS_MAX):
        guard.agrees(PeerId(str(number)), 0.0)
    assert standing(guard) is Standing.REFUSES


def test_after_a_damaged_disk_own_operations_may_come_back_until_peers_agree_anew() -> None:
    guard = Guard(is_damaged=True)
    guard.agrees(PeerId("a"), 0.0)
    guard.came_back()
    guard.look(100.0)
    assert standing(guard) is Standing.ASKING
    guard.agrees(PeerId("a"), 100.0)
    guard.look(100.0 + PATIENCE_S)
    assert standing(guard) is Standing.WRITES
