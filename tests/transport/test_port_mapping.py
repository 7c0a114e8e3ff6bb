"""Whom to ask for a port when, without a router; the time is a number."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.transport.port_mapping import (
    FOR_EVER,
    LEASE_S,
    LEASE_S_MAX,
    LEASE_S_MIN,
    LOOK_S,
    ORDER,
    PATIENCE_S,
    PORTS_TRIED_MAX,
    RENEW_S_MIN,
    RETRY_S_MAX,
    RETRY_S_MIN,
    Answer,
    Ask,
    GiveBack,
    Granted,
    Homeless,
    Mapping,
    OtherVersion,
    PermanentOnly,
    PortMapping,
    Protocol,
    Refused,
    Silent,
    Taken,
    is_public,
    renew_after_s,
)
from shoal.transport.router_service import SEARCH_S, SEARCHES

PORT = 4011
HOME = "5.0.1.2"
PCP, NAT_PMP, UPNP = ORDER
NO_PUBLIC_ADDRESS = "the router says that it has no public address"

AT_ONCE_MAX = 2 * (len(ORDER) + PORTS_TRIED_MAX + 1)

Router = Callable[[Ask], Answer]


def core(port: int = PORT, seed: int = 1) -> PortMapping:
    return PortMapping(port, seed)


def grants(ask: Ask) -> Granted:
    return Granted(HOME, ask.external_port, ask.lease_s or None)


def speaks(protocol: Protocol) -> Router:
    return lambda ask: grants(ask) if ask.protocol is protocol else Silent()


def settle(mapping: PortMapping, router: Router, now: float) -> list[Ask | GiveBack]:
    """All that is done at once, if the router takes no time."""
    done: list[Ask | GiveBack] = []
    while (effect := mapping.due(now)) is not None:
        done.append(effect)
        assert len(done) <= AT_ONCE_MAX
        if isinstance(effect, Ask):
            mapping.answered(effect, router(effect), now)
    return done


def asked(done: list[Ask | GiveBack]) -> list[tuple[Protocol, int]]:
    return [(ask.protocol, ask.external_port) for ask in done if isinstance(ask, Ask)]


@pytest.mark.parametrize("protocol", ORDER)
def test_protocols_are_tried_in_their_order_until_one_grants(protocol: Protocol) -> None:
    mapping = core()
    done = settle(mapping, speaks(protocol), 0.0)
    assert asked(done) == [(each, PORT) for each in ORDER[: ORDER.index(protocol) + 1]]
    assert mapping.mapping == Mapping(HOME, PORT, protocol, LEASE_S)
    assert mapping.reason == ""
    assert mapping.happened == f"mapped {HOME}:{PORT} by {protocol.value}"


def test_a_node_without_such_a_router_knows_it_within_five_seconds() -> None:
    mapping = core()
    waited_s = 0.0
    for ask in settle(mapping, lambda ask: Silent(), 0.0):
        assert isinstance(ask, Ask)
        waited_s += ask.patience_s if ask.protocol is not UPNP else SEARCHES * SEARCH_S
    assert waited_s <= 5.0
    assert PATIENCE_S[UPNP] > SEARCHES * SEARCH_S
    assert mapping.mapping is None
    assert mapping.reason == "no router answers PCP, NAT-PMP or UPnP"


def test_who_answers_pcp_in_another_version_is_asked_by_nat_pmp_as_patiently() -> None:
    mapping = core()
    router: Router = lambda ask: OtherVersion() if ask.protocol is PCP else grants(ask)  # noqa: E731
    done = settle(mapping, router, 0.0)
    assert [ask.patience_s for ask in done if isinstance(ask, Ask)] == [PATIENCE_S[PCP], PATIENCE_S[NAT_PMP]]


@pytest.mark.parametrize("protocol", ORDER)
def test_a_mapping_is_renewed_by_its_protocol_and_for_its_port(protocol: Protocol) -> None:
    mapping = core()
    settle(mapping, lambda ask: Granted(HOME, 5000, 40) if ask.protocol is protocol else Silent(), 0.0)
    renew_at = mapping.deadline
    assert renew_at == renew_after_s(40, protocol) == 20.0
    assert mapping.due(renew_at - 0.1) is None
    assert asked(settle(mapping, grants, renew_at)) == [(protocol, 5000)]
    assert mapping.mapping == Mapping(HOME, 5000, protocol, renew_at + LEASE_S)
    assert mapping.happened.startswith("renewed")
    assert mapping.deadline == renew_at + LOOK_S[protocol]


@given(st.floats(0, 1e12), st.sampled_from(ORDER))
def test_renewing_is_bounded_whatever_lease_is_granted(lease_s: float, protocol: Protocol) -> None:
    assert RENEW_S_MIN <= renew_after_s(lease_s, protocol) <= LOOK_S[protocol]
    assert lease_s < LEASE_S_MIN or renew_after_s(lease_s, protocol) <= lease_s / 2


def test_a_lease_for_ever_is_asked_for_where_there_are_no_others() -> None:
    mapping = core()

    def router(ask: Ask) -> Answer:
        if ask.protocol is not UPNP:
            return Silent()
        return grants(ask) if ask.lease_s == FOR_EVER else PermanentOnly()

    done = settle(mapping, router, 0.0)
    assert [ask.lease_s for ask in done if isinstance(ask, Ask)] == [LEASE_S, LEASE_S, LEASE_S, FOR_EVER]
    assert mapping.mapping == Mapping(HOME, PORT, UPNP, math.inf)
    assert mapping.deadline == LOOK_S[UPNP]
    assert mapping.ended() == GiveBack(UPNP, PORT)


def test_another_port_is_taken_where_somebody_has_the_first() -> None:
    mapping = core()
    router: Router = lambda ask: (  # noqa: E731
        Silent() if ask.protocol is not UPNP else Taken() if ask.external_port == PORT else grants(ask)
    )
    ports = [port for protocol, port in asked(settle(mapping, router, 0.0)) if protocol is UPNP]
    assert ports[0] == PORT != ports[1]
    assert mapping.mapping is not None
    assert mapping.mapping.port == ports[1]
    assert ports == [port for protocol, port in asked(settle(core(), router, 0.0)) if protocol is UPNP]
    assert ports != [port for protocol, port in asked(settle(core(seed=2), router, 0.0)) if protocol is UPNP]


def test_where_all_ports_are_taken_it_ends_and_begins_with_the_first_again() -> None:
    mapping = core()
    router: Router = lambda ask: Taken() if ask.protocol is UPNP else Silent()  # noqa: E731
    for _ in range(2):
        ports = [
            port for protocol, port in asked(settle(mapping, router, max(0.0, mapping.deadline))) if protocol is UPNP
        ]
        assert len(set(ports)) == PORTS_TRIED_MAX
        assert ports[0] == PORT
    assert mapping.reason == f"UPnP: the router refuses: others have port {PORT} and those tried in its place"


def test_rounds_without_success_come_after_pauses_that_double() -> None:
    mapping = core()
    now, pauses = 0.0, list[float]()
    for _ in range(8):
        settle(mapping, lambda ask: Silent(), now)
        pauses.append(mapping.deadline - now)
        now = mapping.deadline
    assert pauses == [RETRY_S_MIN, 60, 120, 240, 480, RETRY_S_MAX, RETRY_S_MAX, RETRY_S_MAX]
    mapping.network_changed(now - 1)
    assert len(settle(mapping, lambda ask: Silent(), now - 1)) == len(ORDER)
    assert mapping.deadline == now - 1 + RETRY_S_MIN


def test_what_is_not_renewed_is_asked_for_by_the_other_protocols_before_it_is_given_up() -> None:
    mapping = core()
    settle(mapping, grants, 0.0)
    now = mapping.deadline
    ask = mapping.due(now)
    assert isinstance(ask, Ask)
    mapping.answered(ask, Silent(), now)
    assert mapping.mapping is not None  # not yet
    assert mapping.happened == "not renewed by PCP: no answer"
    assert asked(settle(mapping, speaks(UPNP), now)) == [(NAT_PMP, PORT), (UPNP, PORT)]
    assert mapping.mapping == Mapping(HOME, PORT, UPNP, now + LEASE_S)
    assert mapping.happened == f"mapped {HOME}:{PORT} by UPnP: it was {PORT} by PCP"
    now = mapping.deadline
    assert len(settle(mapping, lambda ask: Silent(), now)) == len(ORDER)
    assert mapping.mapping is None
    assert mapping.reason == "no router answers PCP, NAT-PMP or UPnP"
    assert mapping.deadline == now + RETRY_S_MIN


def test_a_mapping_ends_with_its_lease_though_no_answer_has_come_of_late() -> None:
    mapping = core()
    settle(mapping, grants, 0.0)
    asleep_until = LEASE_S + 1.0  # the machine
    assert isinstance(mapping.due(asleep_until), Ask)
    assert mapping.mapping is None
    assert mapping.reason == "PCP: the lease has ended"


def test_a_router_that_restarted_or_moved_is_told_of() -> None:
    mapping = core()
    settle(mapping, lambda ask: Granted(HOME, PORT, LEASE_S, epoch_s=1000), 0.0)
    settle(mapping, lambda ask: Granted(HOME, PORT, LEASE_S, epoch_s=1027), now := mapping.deadline)
    assert mapping.happened.startswith("renewed")  # by a slow clock
    settle(mapping, lambda ask: Granted(HOME, PORT, LEASE_S, epoch_s=3), now := mapping.deadline)
    assert mapping.happened == f"mapped {HOME}:{PORT} by PCP anew: the router has started again"
    settle(mapping, lambda ask: Granted("5.0.1.3", PORT, LEASE_S, epoch_s=33), now := mapping.deadline)
    assert mapping.happened == f"mapped 5.0.1.3:{PORT} by PCP: the router's address was {HOME}"
    assert mapping.mapping == Mapping("5.0.1.3", PORT, PCP, now + LEASE_S)


@pytest.mark.parametrize("host", ["100.64.0.2", "192.168.178.20", "0.0.0.0", "127.0.0.1", "224.0.0.1", "x" * 9999, ""])
def test_an_address_that_is_not_public_is_the_reason_and_its_mapping_given_back(host: str) -> None:
    mapping = core()
    done = settle(mapping, lambda ask: Granted(host, PORT, LEASE_S), 0.0)
    assert [type(effect) for effect in done] == [Ask, GiveBack]  # the same router is not asked by other names
    assert done[1] == GiveBack(PCP, PORT)
    assert mapping.mapping is None
    assert mapping.reason.startswith(f"the router's own address {host[:20]}")
    assert len(mapping.reason) < 400
    assert mapping.ended() is None


def test_the_reason_that_tells_most_is_told() -> None:
    refusing = core()
    settle(refusing, lambda ask: Refused("not authorized") if ask.protocol is NAT_PMP else Silent(), 0.0)
    assert refusing.reason == "NAT-PMP: the router refuses: not authorized"
    homeless = core()
    settle(homeless, lambda ask: Refused("no") if ask.protocol is PCP else Homeless(None), 0.0)
    assert homeless.reason.startswith(NO_PUBLIC_ADDRESS)


@pytest.mark.parametrize("granted", [Granted(HOME, PORT, LEASE_S_MIN - 1), Granted(HOME, 0, LEASE_S)])
def test_what_nobody_could_use_is_refused_and_given_back(granted: Granted) -> None:
    mapping = PortMapping(PORT, 1, protocols=[PCP])
    assert [type(effect) for effect in settle(mapping, lambda ask: granted, 0.0)] == [Ask, GiveBack]
    assert mapping.reason.startswith("PCP: the router refuses: it grants")


@pytest.mark.parametrize(
    "answer", [Silent(), OtherVersion(), Taken(), PermanentOnly(), Homeless(None), Refused("no")], ids=str
)
@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_round_ends_soon_whatever_the_router_says_to_everything(answer: Answer, *, is_mapped: bool) -> None:
    mapping = core()
    if is_mapped:
        settle(mapping, grants, 0.0)
    settle(mapping, lambda ask: answer, now := max(0.0, mapping.deadline))
    assert mapping.mapping is None
    assert mapping.deadline == now + RETRY_S_MIN


def test_a_lease_of_a_hundred_years_is_not_believed() -> None:
    mapping = core()
    settle(mapping, lambda ask: Granted(HOME, PORT, 2**32 - 1), 0.0)
    assert mapping.mapping == Mapping(HOME, PORT, PCP, LEASE_S_MAX)


def test_a_change_of_network_ends_what_stood_and_what_was_asked_before_it() -> None:
    mapping = core()
    settle(mapping, grants, 0.0)
    late = mapping.due(mapping.deadline)
    assert isinstance(late, Ask)
    mapping.network_changed(100.0)
    assert mapping.mapping is None
    assert mapping.reason == "the network has changed, and the router has not been asked since"
    mapping.answered(late, grants(late), 100.0)
    assert mapping.mapping is None
    assert asked(settle(mapping, grants, 100.0)) == [(PCP, PORT)]
    assert mapping.mapping == Mapping(HOME, PORT, PCP, 100.0 + LEASE_S)


def test_what_was_asked_for_and_perhaps_granted_is_given_back_too() -> None:
    mapping = core()
    assert mapping.ended() is None
    ask = mapping.due(0.0)
    assert isinstance(ask, Ask)
    assert mapping.ended() == GiveBack(PCP, PORT)
    mapping.answered(ask, Granted(HOME, 5000, LEASE_S), 0.0)
    assert mapping.ended() == GiveBack(PCP, 5000)
    settle(mapping, lambda ask: Silent(), LOOK_S[PCP])
    assert mapping.ended() is None


hosts = st.sampled_from([HOME, "5.0.1.3", "100.64.0.2", "no address", ""])
answers = st.one_of(
    st.builds(Granted, hosts, st.integers(0, 65_535), st.none() | st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.sampled_from([Silent(), OtherVersion(), Taken(), PermanentOnly(), Homeless(None), Homeless("10.0.0.1")]),
    st.builds(Refused, st.text(max_size=300)),
)


class AnyRouter(RuleBasedStateMachine):
    """Whatever a router answers, and whenever."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.mapping = core()
        self.asking: Ask | None = None
        self.asked_at: list[float] = []
        self.changed_at = 0.0

    @precondition(lambda self: self.asking is None)
    @rule()
    def act(self) -> None:
        effect = self.mapping.due(self.now)
        if isinstance(effect, Ask):
            self.asking = effect
            self.asked_at.append(self.now)
        stands = self.mapping.mapping
        assert stands is None or (self.now < stands.expires_at and is_public(stands.host))
        assert effect is not None or self.mapping.deadline > self.now

    @precondition(lambda self: self.asking is not None)
    @rule(answer=answers, after_s=st.floats(0, 5))
    def answer(self, answer: Answer, after_s: float) -> None:
        assert self.asking is not None
        assert self.mapping.due(self.now) is None  # one question at a time
        self.now += after_s
        self.mapping.answered(self.asking, answer, self.now)
        self.asking = None

    @precondition(lambda self: self.asking is None)
    @rule(share=st.floats(0, 3))
    def wait(self, share: float) -> None:
        assert self.mapping.deadline < math.inf  # it never gives up for good
        self.now += max(0.0, self.mapping.deadline - self.now) * share

    @rule()
    def change_network(self) -> None:
        self.mapping.network_changed(self.now)
        self.asking = None
        self.asked_at = []

    @invariant()
    def there_is_a_mapping_or_a_reason(self) -> None:
        assert (self.mapping.mapping is None) == bool(self.mapping.reason)
        assert len(self.mapping.reason) < 400

    @invariant()
    def the_router_is_not_asked_without_end(self) -> None:
        recent = [at for at in self.asked_at if at > self.now - RENEW_S_MIN]
        assert len(recent) <= AT_ONCE_MAX


TestAnyRouter = AnyRouter.TestCase
TestAnyRouter.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
