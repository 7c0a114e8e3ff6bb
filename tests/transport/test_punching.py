"""What is offered before a hole is punched, and whom that makes a node dial."""

import ipaddress
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.addresses import Endpoint, ip_endpoint, ranges_of
from shoal.transport.port import Address
from shoal.transport.punching import (
    ATTEMPTS_PER_RANGE,
    ATTEMPTS_PER_RANGE_PER_S,
    DIALED_MAX,
    PORT_MIN,
    PUNCHED_MAX,
    RANGES_MAX,
    Budget,
    Mapping,
    Offer,
    Plan,
    explanation,
    mapping_of,
    plan,
)
from shoal.transport.wire import Malformed, decode, encode

ME, YOU = "5.1.1.1", "6.1.1.1"


def at(ip: str, port: int = 4001) -> Address:
    return ip_endpoint(ip, port).address


def offer(*punched: Address, mapping: Mapping = Mapping.INDEPENDENT, listening: tuple[Address, ...] = ()) -> Offer:
    return Offer(mapping, punched, listening)


OWN = offer(at(ME))


def hosts(planned: Plan | str) -> tuple[list[str], list[str]]:
    assert isinstance(planned, Plan), planned
    return [each.host for each in planned.punched], [each.host for each in planned.dialed]


def test_where_the_other_side_is_seen_is_punched_and_where_it_listens_is_dialed() -> None:
    theirs = offer(at(YOU), at("2a00::1"), listening=(at(YOU, 443), at("192.168.1.2")))
    assert hosts(plan(OWN, theirs)) == (["2a00::1", YOU], [YOU])


def test_neighbours_try_each_others_local_addresses_too() -> None:
    theirs = offer(at(ME, 5000), listening=(at("192.168.1.2"), at("10.0.0.1"), at("fd00::1")))
    assert hosts(plan(OWN, theirs))[1] == ["fd00::1", "192.168.1.2", "10.0.0.1"]


@pytest.mark.parametrize(
    "text",
    [
        at("127.0.0.1"),
        at("::1"),
        at("0.0.0.0"),
        at("0.0.0.1"),
        at("::"),
        at("169.254.1.1"),
        at("fe80::1"),
        at("::ffff:127.0.0.1"),
        at("::ffff:192.168.1.2"),
        at("255.255.255.255"),
        at("240.0.0.1"),
        at("192.168.1.2", 22),
        at("192.168.1.2", 0),
        "/dns4/example.org/tcp/4001",
        "/ip4/192.168.1.2/udp/4001",
        "nonsense",
    ],
)
def test_a_neighbour_cannot_have_this_machine_or_its_services_dialed(text: str) -> None:
    theirs = offer(at(ME, 5000), listening=(Address(text),))
    assert hosts(plan(OWN, theirs)) == ([ME], [])
    theirs = offer(Address(text), at(ME, 5000))
    assert hosts(plan(OWN, theirs)) == ([ME], [])


def test_two_behind_symmetric_nat_are_told_so_at_once_unless_something_else_leads_there() -> None:
    own = offer(at(ME), at("2a00::1"), mapping=Mapping.DEPENDENT)
    theirs = offer(at(YOU), mapping=Mapping.DEPENDENT)
    assert "both sides are behind symmetric NAT" in str(plan(own, theirs))
    assert isinstance(plan(own, offer(at(YOU), at("2a01::1"), mapping=Mapping.DEPENDENT)), Plan)
    assert isinstance(plan(own, offer(at(YOU), mapping=Mapping.DEPENDENT, listening=(at(YOU),))), Plan)
    assert isinstance(plan(OWN, theirs), Plan)


def test_who_knows_nothing_of_itself_is_told_so() -> None:
    assert "knows no address of its own" in str(plan(OWN, offer()))
    assert "knows no address of its own" in str(plan(OWN, offer(at(YOU, 80))))


def test_how_a_router_translates_is_told_by_what_several_see() -> None:
    seen = [ip_endpoint(YOU, 6000), ip_endpoint(YOU, 6000)]
    assert mapping_of(5000, [ME], []) is Mapping.UNKNOWN
    assert mapping_of(5000, [ME], seen[:1]) is Mapping.UNKNOWN
    assert mapping_of(6000, [ME], seen[:1]) is Mapping.INDEPENDENT
    assert mapping_of(5000, [ME], seen) is Mapping.INDEPENDENT
    assert mapping_of(6000, [ME, YOU], seen) is Mapping.NONE
    assert mapping_of(5000, [ME, YOU], seen) is Mapping.INDEPENDENT
    assert mapping_of(5000, [ME], [*seen, ip_endpoint(YOU, 6001)]) is Mapping.DEPENDENT
    assert mapping_of(5000, [ME], [*seen, ip_endpoint("7.1.1.1", 6000)]) is Mapping.DEPENDENT


def test_a_failure_is_explained() -> None:
    symmetric = offer(at(YOU), mapping=Mapping.DEPENDENT)
    assert explanation(OWN, symmetric, 0).startswith("the other side is behind symmetric NAT")
    assert explanation(symmetric, OWN, 0).startswith("this side is behind symmetric NAT")
    assert "refused" in explanation(OWN, offer(at(YOU)), 3)
    assert "neither side's packets" in explanation(OWN, offer(at(YOU)), 0)


def test_attempts_per_range_are_bounded_whoever_makes_them_and_come_back_slowly() -> None:
    budget = Budget()
    to_you = Plan((ip_endpoint(YOU, 4001),), ())
    near_you = Plan((), (ip_endpoint("6.1.1.77", 1),))
    allowed = [budget.allows(each, 0.0) for each in (to_you, near_you) * ATTEMPTS_PER_RANGE]
    assert allowed == [True] * ATTEMPTS_PER_RANGE + [False] * ATTEMPTS_PER_RANGE
    assert budget.allows(Plan((ip_endpoint("6.1.2.1", 1),), ()), 0.0)
    assert not budget.allows(Plan((ip_endpoint("6.1.2.1", 1), ip_endpoint(YOU, 1)), ()), 0.0)
    assert budget.allows(to_you, 1 / ATTEMPTS_PER_RANGE_PER_S)
    assert not budget.allows(to_you, 1 / ATTEMPTS_PER_RANGE_PER_S)


def test_an_attempt_that_succeeds_is_not_counted_where_the_peer_was_but_where_it_was_not() -> None:
    budget = Budget()
    both = Plan((ip_endpoint("7.1.1.1", 5000),), (ip_endpoint(YOU, 4001),))
    allowed = 0
    for _ in range(100):
        if budget.allows(both, 0.0):
            allowed += 1
            budget.proved(both, ip_endpoint("7.1.1.1", 5000))
            budget.proved(both, ip_endpoint("9.9.9.9", 1))
    assert allowed == ATTEMPTS_PER_RANGE
    peer = Plan((ip_endpoint("7.1.1.1", 5000),), ())
    assert sum(budget.allows(peer, 0.0) for _ in range(100)) == ATTEMPTS_PER_RANGE


def test_all_local_addresses_are_one_range() -> None:
    budget = Budget()
    plans = [Plan((), (ip_endpoint(f"192.168.{index}.1", 4001),)) for index in range(100)]
    assert sum(budget.allows(each, 0.0) for each in plans) == ATTEMPTS_PER_RANGE


def test_who_names_many_ranges_makes_the_budget_forget_none_that_it_spends() -> None:
    budget = Budget()
    to_you = Plan((ip_endpoint(YOU, 4001),), ())
    ways = [Plan((ip_endpoint(f"7.{index // 256}.{index % 256}.1", 4001),), ()) for index in range(2 * RANGES_MAX)]
    allowed = sum(budget.allows(to_you, 0.0) for _ in range(100))
    flood = [budget.allows(each, 1.0) for each in ways]
    assert sum(flood) == RANGES_MAX - 1
    allowed += sum(budget.allows(to_you, 2.0) for _ in range(100))
    assert allowed == ATTEMPTS_PER_RANGE
    assert budget.allows(ways[-1], 62.0)
    assert len(budget._buckets) <= RANGES_MAX  # pyright: ignore[reportPrivateUsage]


ips = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.sampled_from(
        [ME, YOU, "127.0.0.1", "0.0.0.0", "192.168.1.1", "::1", "::ffff:10.0.0.1", "fd00::1", "100.64.0.1"]
    ),
)
texts = st.one_of(st.builds(at, ips, st.integers(0, 65_535)), st.text(max_size=60), ips.map("/ip4/{}/tcp/70000".format))
offers = st.builds(
    Offer,
    st.integers(0, 3),
    st.lists(texts, max_size=PUNCHED_MAX).map(tuple),
    st.lists(texts, max_size=DIALED_MAX).map(tuple),
)


@given(offers, offers)
def test_whatever_is_offered_a_plan_is_bounded_and_harmless(own: Offer, theirs: Offer) -> None:
    planned = plan(own, theirs)
    if isinstance(planned, str):
        return
    assert len(planned.punched) <= PUNCHED_MAX
    assert len(planned.dialed) <= DIALED_MAX
    own_hosts = {each.split("/")[2] for each in own.punched if each.count("/") > 2}
    are_neighbours = any(each.split("/")[2] in own_hosts for each in theirs.punched if each.count("/") > 2)
    for each in planned.punched:
        assert ranges_of(each.address) is not None
        assert each.port >= PORT_MIN
    for each in (*planned.punched, *planned.dialed):
        ip = ipaddress.ip_address(each.host)
        assert not any((ip.is_loopback, ip.is_unspecified, ip.is_link_local))
        assert ranges_of(each.address) is not None or (are_neighbours and each.port >= PORT_MIN)


@given(st.lists(offers, max_size=60), st.lists(st.floats(0, 600), min_size=60, max_size=60))
def test_whatever_is_offered_no_range_is_dialed_more_than_its_budget(theirs: list[Offer], times: list[float]) -> None:
    budget = Budget()
    dialed: Counter[str] = Counter()
    for each, now in zip(theirs, sorted(times), strict=False):
        planned = plan(OWN, each)
        if isinstance(planned, Plan) and budget.allows(planned, now):
            places: list[Endpoint] = [*planned.punched, *planned.dialed]
            dialed.update({found.narrow for place in places if (found := ranges_of(place.address))})
    assert all(count <= ATTEMPTS_PER_RANGE + 600 * ATTEMPTS_PER_RANGE_PER_S for count in dialed.values())


@given(offers)
def test_an_offer_outlives_the_wire(made: Offer) -> None:
    assert decode(memoryview(encode(made)), Offer, 4096) == made


@given(st.binary(max_size=200))
def test_any_bytes_are_an_offer_or_the_peers_error(data: bytes) -> None:
    assert isinstance(decode(memoryview(data), Offer, 4096), Offer | Malformed)


def test_an_offer_of_too_many_addresses_is_malformed() -> None:
    many = encode(Offer(0, (at(YOU),) * (PUNCHED_MAX + 1), ()))
    assert isinstance(decode(memoryview(many), Offer, 4096), Malformed)
    many = encode(Offer(0, (), (at(YOU),) * (DIALED_MAX + 1)))
    assert isinstance(decode(memoryview(many), Offer, 4096), Malformed)
