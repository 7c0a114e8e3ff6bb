"""What a search finds: the closest peers, the newest record of a quorum, providers; and whom it corrects."""

from dataclasses import replace

from shoal.dht.contacts import Contact
from shoal.dht.keys import blob_providers_key, note_key, position_of, position_of_peer
from shoal.dht.lookup import LookupSettings
from shoal.dht.messages import KadMessage, MessageKind
from shoal.dht.patience import Patience
from shoal.dht.records import Record, sign_record
from shoal.dht.search import PROVIDERS_FOUND_MAX, Ask, Goal, Search, announce, is_taken, put
from shoal.transport.wire import Malformed, encode
from tests.dht.peers import EPOCH_S, contact, identity

WRITER = identity(900)


def note(sequence: int, body: bytes = b"") -> Record:
    key = note_key("note", WRITER.peer_id)
    assert not isinstance(key, Malformed)
    return sign_record(WRITER, key, sequence, EPOCH_S, body)


KEY = note(1).key
PEERS = sorted(
    (contact(number) for number in range(1, 9)), key=lambda each: position_of_peer(each.peer) ^ position_of(KEY)
)


def search(kind: MessageKind, enough: int = 0, key: bytes = KEY) -> Search:
    settings = LookupSettings(wanted=8, parallelism=8, paths=1)
    return Search(Goal(kind, key, enough), identity(0).peer_id, PEERS, settings, Patience(), b"sender")


def value(record: Record) -> KadMessage:
    return KadMessage(MessageKind.GET_VALUE, KEY, encode(record))


NOTHING = KadMessage(MessageKind.GET_VALUE, KEY)


def answer(current: Search, place: int, message: KadMessage) -> list[Ask]:
    return current.answered(PEERS[place].peer, message, 0.1, EPOCH_S)


def test_it_asks_with_its_question_and_its_sender_record() -> None:
    current = search(MessageKind.FIND_NODE)
    asks = current.begin(0.0)
    assert sorted(ask.contact.peer for ask in asks) == sorted(each.peer for each in PEERS)
    assert {ask.message for ask in asks} == {KadMessage(MessageKind.FIND_NODE, KEY, sender_record=b"sender")}


def test_the_newest_of_a_quorum_is_taken_and_the_search_is_over() -> None:
    current = search(MessageKind.GET_VALUE, enough=3)
    current.begin(0.0)
    answer(current, 0, value(note(1)))
    answer(current, 1, value(note(3)))
    assert not current.is_over
    answer(current, 2, value(note(2)))
    assert current.is_over
    assert current.record == note(3)


def test_with_fewer_holders_than_a_quorum_the_newest_of_those_is_taken_at_the_end() -> None:
    current = search(MessageKind.GET_VALUE, enough=3)
    current.begin(0.0)
    answer(current, 0, value(note(1)))
    for place in range(1, 8):
        assert not current.is_over
        answer(current, place, NOTHING)
    assert current.is_over
    assert current.record == note(1)


def test_with_a_record_found_nobody_waits_for_the_silent_and_without_one_they_are_waited_for() -> None:
    for place_of_record, is_over in ((6, True), (None, False)):
        current = search(MessageKind.GET_VALUE, enough=3)
        current.begin(0.0)
        for place in range(7):
            answer(current, place, value(note(1)) if place == place_of_record else NOTHING)
        assert not current.is_over
        assert current.woken(current.deadline) == []
        assert current.is_over == is_over


def test_records_that_are_not_valid_count_for_nothing_however_many_show_them() -> None:
    current = search(MessageKind.GET_VALUE, enough=2)
    current.begin(0.0)
    forged = replace(value(note(9)), value=encode(note(9))[:-64] + bytes(64))
    for place in range(7):
        answer(current, place, forged)
    assert not current.is_over
    answer(current, 7, value(note(1)))
    assert current.record == note(1)


def test_who_showed_an_older_record_and_the_closest_without_one_are_due_a_copy() -> None:
    current = search(MessageKind.GET_VALUE, enough=2)
    current.begin(0.0)
    assert current.corrections() == []
    answer(current, 5, NOTHING)
    answer(current, 2, NOTHING)
    answer(current, 1, value(note(1)))
    answer(current, 3, value(note(2)))
    asks = current.corrections()
    assert [ask.contact for ask in asks] == [PEERS[1], PEERS[2]]
    assert {ask.message for ask in asks} == {
        KadMessage(MessageKind.PUT_VALUE, KEY, encode(note(2)), sender_record=b"sender")
    }


def test_an_answer_to_another_question_is_a_failure() -> None:
    current = search(MessageKind.GET_VALUE, enough=1)
    current.begin(0.0)
    answer(current, 0, KadMessage(MessageKind.FIND_NODE, KEY))
    answer(current, 1, KadMessage(MessageKind.GET_VALUE, b"other"))
    for place in range(2, 8):
        answer(current, place, KadMessage(MessageKind.GET_VALUE))  # py-libp2p does not always repeat the key
    assert current.is_over
    assert {*current.closest} == set(PEERS[2:])


def test_an_answer_of_somebody_who_was_not_asked_changes_nothing() -> None:
    current = search(MessageKind.GET_VALUE, enough=1)
    current.begin(0.0)
    current.answered(contact(77).peer, value(note(1)), 0.1, EPOCH_S)
    assert current.record is None


def test_providers_are_gathered_until_there_are_enough_and_never_without_bound() -> None:
    key = blob_providers_key(bytes(32))
    current = search(MessageKind.GET_PROVIDERS, enough=3, key=key)
    current.begin(0.0)
    answer(current, 0, KadMessage(MessageKind.GET_PROVIDERS, key, providers=(contact(50), contact(51))))
    answer(current, 1, KadMessage(MessageKind.GET_PROVIDERS, key, providers=(contact(51),)))
    assert not current.is_over
    answer(current, 2, KadMessage(MessageKind.GET_PROVIDERS, key, providers=(contact(52),)))
    assert current.is_over
    assert current.providers == (contact(50), contact(51), contact(52))
    flooded = search(MessageKind.GET_PROVIDERS, key=key)
    flooded.begin(0.0)
    crowd = tuple(Contact(contact(number).peer) for number in range(1000, 1000 + PROVIDERS_FOUND_MAX + 50))
    answer(flooded, 0, KadMessage(MessageKind.GET_PROVIDERS, key, providers=crowd))
    assert len(flooded.providers) == PROVIDERS_FOUND_MAX


def test_what_is_put_or_announced_counts_as_taken_when_it_is_confirmed() -> None:
    [ask] = put(PEERS[:1], note(1))
    assert is_taken(ask, KadMessage(MessageKind.PUT_VALUE, KEY))
    assert not is_taken(ask, KadMessage(MessageKind.PUT_VALUE))
    assert not is_taken(ask, NOTHING)
    [ask] = announce(PEERS[:1], b"key", contact(1))
    assert ask.message == KadMessage(MessageKind.ADD_PROVIDER, b"key", providers=(contact(1),))
    assert is_taken(ask, KadMessage(MessageKind.ADD_PROVIDER, b"key"))
