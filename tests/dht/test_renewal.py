"""What a node has published, and when again."""

from shoal.dht.keys import blob_providers_key, listing_key
from shoal.dht.renewal import (
    DUE_AT_ONCE_MAX,
    PUBLISHED_MAX,
    RENEW_S_MAX,
    RENEW_S_MIN,
    RETRY_S_MAX,
    RETRY_S_MIN,
    Own,
    OwnProvision,
    OwnRecord,
    Renewal,
)
from tests.dht.peers import identity

ME = identity(1).peer_id


def provision(number: int) -> OwnProvision:
    return OwnProvision(blob_providers_key(number.to_bytes(32, "big")))


def test_what_is_published_is_due_at_once_then_after_12_to_22_hours_each_at_its_own_moment() -> None:
    renewal = Renewal(1)
    items = [provision(number) for number in range(DUE_AT_ONCE_MAX)]
    for item in items:
        assert renewal.publish(item, 0.0)
    assert renewal.deadline == 0.0
    assert renewal.due(0.0) == sorted(items, key=lambda item: item.key)
    assert renewal.deadline == float("inf")
    moments: list[float] = []
    for item in items:
        renewal.published(item, 0.0, 8)
    while len(moments) < len(items):
        moments.append(renewal.deadline)
        assert len(renewal.due(renewal.deadline)) == 1
    assert RENEW_S_MIN <= min(moments) < max(moments) <= RENEW_S_MAX
    assert len(set(moments)) == len(items)


def test_what_reached_nobody_is_tried_again_ever_more_rarely() -> None:
    renewal = Renewal(1)
    renewal.publish(provision(1), 0.0)
    now, pauses = 0.0, list[float]()
    for _ in range(12):
        assert renewal.due(now) == [provision(1)]
        renewal.published(provision(1), now, 0)
        pauses.append(renewal.deadline - now)
        now = renewal.deadline
    assert RETRY_S_MIN / 2 <= pauses[0] <= RETRY_S_MIN
    assert RETRY_S_MAX / 2 <= pauses[-1] <= RETRY_S_MAX
    renewal.due(now)
    renewal.published(provision(1), now, 1)
    assert renewal.deadline >= now + RENEW_S_MIN


def test_a_new_body_replaces_the_old_and_is_due_at_once_even_while_the_old_one_is_under_way() -> None:
    renewal = Renewal(1)
    old, new = OwnRecord(listing_key(ME), b"old"), OwnRecord(listing_key(ME), b"new")
    renewal.publish(old, 0.0)
    assert renewal.due(0.0) == [old]
    renewal.publish(new, 1.0)
    assert renewal.due(1.0) == []
    renewal.published(old, 2.0, 8)
    assert renewal.due(2.0) == [new]
    renewal.published(new, 3.0, 8)
    renewal.publish(new, 4.0)  # the same again changes nothing
    assert renewal.deadline > RENEW_S_MIN


def test_only_so_many_are_under_way_and_what_is_withdrawn_makes_room() -> None:
    renewal = Renewal(1)
    for number in range(DUE_AT_ONCE_MAX + 3):
        renewal.publish(provision(number), 0.0)
    under_way: list[Own] = renewal.due(0.0)
    assert len(under_way) == DUE_AT_ONCE_MAX
    assert renewal.due(0.0) == []
    item = under_way[0]
    assert isinstance(item, OwnProvision)
    renewal.withdraw(item.key)
    renewal.published(item, 0.0, 1)
    assert len(renewal.due(0.0)) == 1


def test_a_node_publishes_only_so_many_keys() -> None:
    renewal = Renewal(1)
    assert all(renewal.publish(provision(number), 0.0) for number in range(PUBLISHED_MAX))
    assert not renewal.publish(provision(PUBLISHED_MAX), 0.0)
    assert renewal.publish(provision(1), 0.0)
