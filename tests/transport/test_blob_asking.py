"""What a peer holds of several blobs is asked in one question."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from shoal.transport.blob_asking_service import GATHER_S, Asker, Had
from shoal.transport.blobs import HAVE, HAVES_MAX, HaveReply, HaveRequest
from shoal.transport.memory import Network
from shoal.transport.port import Code, PeerId, Refusal

THERE = PeerId("there")


def digest(number: int) -> bytes:
    return number.to_bytes(32)


@asynccontextmanager
async def asking(
    answer: Callable[[HaveRequest], HaveReply | Refusal],
) -> AsyncGenerator[tuple[Asker, trio.Nursery, list[HaveRequest]]]:
    """An asker, connected with a peer that answers so, and what that one was asked."""
    network, asked = Network(is_full=True), list[HaveRequest]()

    def serve(_: PeerId, request: HaveRequest) -> HaveReply | Refusal:
        asked.append(request)
        return answer(request)

    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        here, there = await network.open(PeerId("here")), await network.open(THERE)
        there.serve(HAVE, serve)
        yield Asker(here), nursery, asked
        nursery.cancel_scope.cancel()


async def gather(asker: Asker, nursery: trio.Nursery, count: int) -> list[Had | Refusal]:
    """The answers for the blobs 0 to `count`, asked at the same moment."""
    answers: dict[int, Had | Refusal] = {}

    async def one(number: int) -> None:
        answers[number] = await asker.ask(nursery, THERE, digest(number))

    async with trio.open_nursery() as questions:
        for number in range(count):
            questions.start_soon(one, number)
    return [answers[number] for number in range(count)]


async def test_questions_of_a_moment_are_one_and_each_gets_its_answer(autojump_clock: MockClock) -> None:
    haves = {digest(0): None, digest(1): b"", digest(2): b"\x05"}
    async with asking(lambda request: HaveReply([haves[each] for each in request.digests], 7)) as (
        asker,
        nursery,
        asked,
    ):
        whole, nothing, part = await gather(asker, nursery, 3)
        assert (whole, part) == (Had(None, 7), Had(b"\x05", 7))
        assert isinstance(nothing, Refusal)
        assert nothing.code is Code.NOT_FOUND
        assert [sorted(each.digests) for each in asked] == [sorted(haves)]
        await trio.sleep(GATHER_S)
        assert await asker.ask(nursery, THERE, digest(0)) == Had(None, 7)
        assert len(asked) == 2


async def test_more_than_fit_are_several(autojump_clock: MockClock) -> None:
    answer: Callable[[HaveRequest], HaveReply] = lambda request: HaveReply([each[-1:] for each in request.digests])  # noqa: E731
    async with asking(answer) as (asker, nursery, asked):
        answers = await gather(asker, nursery, HAVES_MAX + 9)
        assert answers == [Had(digest(number)[-1:], 0) for number in range(HAVES_MAX + 9)]
        assert sorted(len(each.digests) for each in asked) == [9, HAVES_MAX]


@pytest.mark.parametrize(
    ("answer", "code"), [(HaveReply([None]), Code.MALFORMED), (Refusal(Code.BUSY, "later"), Code.BUSY)]
)
async def test_a_refusal_and_an_answer_that_leaves_some_out_are_everybodys(
    autojump_clock: MockClock, answer: HaveReply | Refusal, code: Code
) -> None:
    async with asking(lambda _: answer) as (asker, nursery, _):
        for each in await gather(asker, nursery, 2):
            assert isinstance(each, Refusal)
            assert each.code is code


async def test_who_gives_up_takes_nobody_elses_answer_away(autojump_clock: MockClock) -> None:
    async with asking(lambda request: HaveReply([None] * len(request.digests))) as (asker, nursery, _):
        answers: list[Had | Refusal] = []

        async def patient() -> None:
            answers.append(await asker.ask(nursery, THERE, digest(1)))

        async with trio.open_nursery() as questions:
            with trio.move_on_after(GATHER_S / 2):
                questions.start_soon(patient)
                await asker.ask(nursery, THERE, digest(0))
        assert answers == [Had(None, 0)]
