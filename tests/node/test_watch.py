"""The ring of events and its watchers."""

import trio
import trio.testing

from shoal.node.watch import EventRing


async def test_a_watcher_gets_what_comes_after_it_began() -> None:
    ring = EventRing(clock=lambda: 5.0)
    ring.publish({"event": "before"})
    watcher = ring.watch()
    ring.publish({"event": "after"}, swarm="aa")
    assert await watcher.next() == {"sequence": 2, "time": 5.0, "swarm": "aa", "event": "after"}


async def test_a_watcher_may_begin_with_all_that_is_kept() -> None:
    ring = EventRing()
    for name in "abc":
        ring.publish({"event": name})
    watcher = ring.watch(after=0)
    assert [(await watcher.next())["event"] for _ in range(3)] == ["a", "b", "c"]


async def test_a_watcher_waits_for_the_next_event(autojump_clock: trio.testing.MockClock) -> None:
    ring = EventRing()
    watcher = ring.watch()
    async with trio.open_nursery() as nursery:

        async def publish_later() -> None:
            await trio.sleep(10)
            ring.publish({"event": "late"})

        nursery.start_soon(publish_later)
        assert (await watcher.next())["event"] == "late"
        assert trio.current_time() >= 10


async def test_a_slow_watcher_is_told_how_many_events_it_missed() -> None:
    ring = EventRing(kept_max=3)
    watcher = ring.watch()
    for number in range(10):
        ring.publish({"event": str(number)})
    first = await watcher.next()
    assert (first["event"], first["count"]) == ("missed", 7)
    assert [(await watcher.next())["event"] for _ in range(3)] == ["7", "8", "9"]


async def test_watchers_do_not_disturb_each_other() -> None:
    ring = EventRing()
    one, two = ring.watch(), ring.watch()
    ring.publish({"event": "x"})
    assert (await one.next())["event"] == (await two.next())["event"] == "x"
