"""Which adversaries can be asked for, and that nobody becomes one by accident."""

from functools import partial
from pathlib import Path

import pytest

from shoal.node import cli_adversary
from shoal.node.adversaries import ON_SLOPES, ON_VALUES, POISONS
from shoal.node.attacking import KINDS, OF_ZEROTH, SYBIL, WITHHOLDING, explained, parse, refusal
from shoal.node.cli import no_arguments, parser
from shoal.node.cli_testnet import plan_of
from shoal.node.complaint import Complaint, Exit
from shoal.node.membership import Membership
from shoal.node.plan import HELD_UP_ROUND_S, ROUND_S, Plan, check
from shoal.node.role import Role, is_loopback, is_testnets, read_role, write_role
from shoal.node.swarms import Hardware, build_method
from shoal.training import data
from shoal.training.diloco import Diloco
from shoal.training.method import Share, Start, Turn
from shoal.training.ports import BytesReader
from shoal.training.records import turn_seed
from shoal.training.spec import Spec, spec_from, swarm_id

ROLE = Role("signflip", 3, ("a", "b"), ())


def spec_of(plan: Plan) -> Spec:
    spec = spec_from(plan.spec(), plan.identity(0).peer_id, bytes.fromhex(plan.nonce()))
    assert isinstance(spec, Spec), spec
    return spec


def test_kinds_stand_for_the_last_nodes_in_their_order() -> None:
    assert parse("nan=1, signflip=2", 6) == ("nan", "signflip", "signflip")
    plan = Plan(nodes=6, adversaries=parse("nan=1,signflip=2", 6))
    assert [plan.kind(node) for node in range(6)] == [None, None, None, "nan", "signflip", "signflip"]
    peers = [plan.identity(node).peer_id for node in range(6)]
    assert plan.role(2) is None
    assert plan.role(4) == Role("signflip", 0, tuple(peers[3:]), (peers[1],))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nan", "expected KIND=N"),
        ("nan=", "expected KIND=N"),
        ("nan=0", "expected KIND=N"),
        ("nan=-1", "expected KIND=N"),
        ("nan=²", "expected KIND=N"),
        ("nan=99999999999", "expected KIND=N"),
        (f"nan={'9' * 5000}", "expected KIND=N"),
        ("", "expected KIND=N"),
        ("nan=1,", "expected KIND=N"),
        ("signflop=1", "did you mean 'signflip'"),
        ("=1", "valid are"),
        ("nan=1,nan=1", "stands there twice"),
        ("nan=4", "at least one is honest"),
        ("nan=2,huge=2", "at least one is honest"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(Complaint) as caught:
        parse(text, 4)
    assert caught.value.code is Exit.USAGE
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_kind_does_something_and_is_told_of() -> None:
    values = set(ON_VALUES) | set(POISONS)
    assert set(KINDS) == values | {"slow", "judge", SYBIL, *WITHHOLDING}
    assert set(OF_ZEROTH) <= set(KINDS)
    assert set(OF_ZEROTH) == {*ON_SLOPES, "slow", "judge", SYBIL}
    told = explained()
    assert all(kind in told for kind in KINDS)


def test_the_command_line_becomes_a_plan_with_rounds_that_end() -> None:
    plan = plan_of(parser().parse_args(["testnet", "--nodes", "5", "--adversaries", "sybil=2,slow=1"]))
    assert plan.adversaries == ("sybil", "sybil", "slow")
    spec = spec_of(plan)
    assert (spec.round_s, spec.admission.value) == (HELD_UP_ROUND_S, "open")
    others = spec_of(Plan(nodes=5, adversaries=("nan",)))
    assert (others.round_s, others.admission.value) == (ROUND_S, "invite")


@pytest.mark.parametrize("other", [("--chaos", "1"), ("--network", "home")])
def test_adversaries_are_on_loopback_alone(other: tuple[str, str]) -> None:
    with pytest.raises(Complaint, match="attack on loopback"):
        plan_of(parser().parse_args(["testnet", "--adversaries", "nan=1", *other]))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(method="zeroth", model="gpt-0.2m", adversaries=("alie",)), "not known for --method zeroth"),
        (Plan(method="zeroth", model="gpt-0.2m", adversaries=("judge",), settings={"audit": "private"}), "nobody"),
        (Plan(method="zeroth", model="gpt-0.2m", adversaries=("zero",), settings={"pool": 4096}), "with a pool"),
        (Plan(data=f"file:{'0' * 64}", adversaries=("labelflip",)), "known by name"),
    ],
)
def test_what_an_attack_needs_of_a_swarm_is_said_before_any_node_is_started(plan: Plan, said: str) -> None:
    with pytest.raises(Complaint, match=said):
        check(plan)
    assert refusal(["slow"], spec_of(plan), is_audited=False) is None


def test_only_swarms_that_testnets_found_are_attacked() -> None:
    plan = Plan(seed=3)
    spec = spec_of(plan)
    assert is_testnets(spec, 3)
    assert not is_testnets(spec, 4)
    others = spec_from(plan.spec(), plan.identity(0).peer_id, bytes(16))
    assert isinstance(others, Spec)
    assert not is_testnets(others, 3)


def test_only_loopback_is_loopback() -> None:
    assert all(map(is_loopback, ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/4011", "/ip4/127.3.4.5/udp/1"]))
    assert not any(map(is_loopback, ["/ip4/0.0.0.0/tcp/0", "/ip4/192.168.1.2/tcp/1", "/dns4/localhost/tcp/1", ""]))


def test_a_method_is_built_for_no_other_swarm_and_for_none_with_members_elsewhere() -> None:
    build = partial(cli_adversary.build, ROLE, Hardware("cpu", 1))
    own, other = spec_of(Plan(seed=3, model="gpt-0.2m")), spec_of(Plan(seed=4, model="gpt-0.2m"))
    address, other_address = "/ip4/127.0.0.1/tcp/4", "/ip4/10.0.0.1/tcp/4"
    here, elsewhere = Membership(known={"x": (address,)}), Membership(known={"x": (address, other_address)})
    assert not isinstance(build(own, here, lambda done, total: None), str)
    assert "no other" in str(build(other, here, lambda done, total: None))
    assert "no other" in str(build(own, elsewhere, lambda done, total: None))


@pytest.mark.parametrize("kind", ["labelflip", "signflip"])
def test_who_forges_its_work_judges_that_of_others_as_all_do(kind: str, tmp_path: Path) -> None:
    plan = Plan(seed=3, model="gpt-0.2m", settings={"steps": 2, "batch_size": 2, "context": 32, "audit": "public"})
    spec, here = spec_of(plan), Membership()
    if kind in POISONS:
        path = tmp_path / "poisoned.txt"
        path.write_bytes(POISONS[kind](data.training_bytes(spec.data)))
        here = Membership(data=str(path))
    liar = cli_adversary.build(Role(kind, 3, ("d",), ()), Hardware("cpu", 1), spec, here, lambda done, total: None)
    honest = build_method(Hardware("cpu", 1), spec, Membership(), lambda done, total: None)
    assert isinstance(liar, Diloco)
    assert isinstance(honest, Diloco)
    state, local = honest.start(spec)
    state, _ = honest.apply(state, [])
    for member, author, came_out in (("a", honest, 1.0), ("d", liar, 0.0)):
        seed = turn_seed(swarm_id(spec), 2, 1, member)
        work = author.contribute(state, local, Turn(2, 1, member, ("a", "d"), seed, 60.0, lambda: 0.0, lambda: False))
        share = Share(2, member, work.samples, 1, 1, BytesReader(b"".join(map(bytes, work.payload))))
        start = Start(BytesReader(b"".join(map(bytes, honest.save_local(local)))), ("a", "d"), None)
        assert [judge.audit(state, start, share, bytes(32)) for judge in (honest, liar)] == [came_out, came_out]


def test_a_role_is_written_and_read(tmp_path: Path) -> None:
    write_role(tmp_path, ROLE)
    assert read_role(tmp_path) == ROLE


@pytest.mark.parametrize("text", ["", "{}", '{"kind":"kind","seed":0,"colluding":[],"shunned":[]}'])
def test_what_is_no_role_makes_no_adversary(text: str, tmp_path: Path) -> None:
    (tmp_path / "adversary.json").write_text(text)
    with pytest.raises(Complaint) as caught:
        read_role(tmp_path)
    assert caught.value.code is Exit.CONFIG


def test_without_a_role_or_beside_loopback_no_adversary_starts(tmp_path: Path) -> None:
    with pytest.raises(Complaint, match=r"adversary\.json"):
        cli_adversary.run(no_arguments(), ["node", "--data-dir", str(tmp_path)])
    write_role(tmp_path, ROLE)
    for listen in (["--listen", "/ip4/0.0.0.0/tcp/0"], []):
        with pytest.raises(Complaint, match="listens on loopback alone"):
            cli_adversary.run(no_arguments(), ["node", "--data-dir", str(tmp_path), *listen])
