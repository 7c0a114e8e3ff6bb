"""From findings to one verdict."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.node.diagnosis import ADVICE, Cause, Check, Finding, State, diagnose, diagnosis_as_json, finding_as_json

ORDER = list(Cause)
OF_A_PEER = [Check.ADDRESS, Check.CONNECTION, Check.PUNCHING, Check.ROUND_TRIP, Check.RATE]
ELSEWHERE = [Cause.FIREWALL, Cause.ROUTER, Cause.RELAYS, Cause.NO_MEMBERS, Cause.MISSING, Cause.ALONE]
FINDINGS = st.builds(
    Finding,
    st.sampled_from(Check),
    st.sampled_from(State),
    st.text(max_size=3),
    st.sampled_from(Cause),
    st.text(max_size=3),
)


def fails(cause: Cause, check: Check = Check.NODE) -> Finding:
    return Finding(check, State.FAILURE, "words", cause)


def warns(cause: Cause, check: Check = Check.NODE) -> Finding:
    return Finding(check, State.WARNING, "words", cause)


@given(st.lists(FINDINGS, max_size=12), st.randoms(use_true_random=False))
def test_whatever_was_found_there_is_one_verdict_and_the_order_of_findings_changes_nothing(
    findings: list[Finding], random: Random
) -> None:
    diagnosis = diagnose(findings)
    random.shuffle(findings)
    assert diagnose(findings) == diagnosis
    assert diagnosis.advice == ADVICE[diagnosis.cause]
    assert diagnosis.cause.value in diagnosis.words
    assert diagnosis.cause in {Cause.FINE, *(each.cause for each in findings)}
    if not diagnosis.is_fine:
        assert any(each.state is State.FAILURE and each.cause is diagnosis.cause for each in findings)


@given(st.lists(FINDINGS.filter(lambda each: each.check not in OF_A_PEER), max_size=12))
def test_of_what_is_wrong_the_first_in_the_order_of_causes_counts(findings: list[Finding]) -> None:
    wrong = [each for each in findings if each.cause is not Cause.FINE]
    for state in (State.FAILURE, State.WARNING):
        causes = [each.cause for each in wrong if each.state is state]
        if causes:
            assert diagnose(findings).cause is min(causes, key=ORDER.index)
            return
    assert diagnose(findings).cause is Cause.FINE


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.FINE])
def test_each_cause_alone_is_the_verdict_and_each_has_its_own_advice(cause: Cause) -> None:
    assert diagnose([fails(cause)]).cause is cause
    assert not diagnose([fails(cause)]).is_fine
    assert diagnose([warns(cause)]).cause is cause
    assert diagnose([warns(cause)]).is_fine
    assert "\n" not in ADVICE[cause]
    assert [each for each in Cause if ADVICE[each] == ADVICE[cause]] in (
        [cause],
        [Cause.MISSING, Cause.FINE],
    )


def test_what_is_skipped_or_fine_is_nobody_s_fault() -> None:
    assert diagnose([]).cause is Cause.FINE
    assert diagnose([Finding(Check.CLOCK, State.SKIPPED, "", Cause.CLOCK)]).cause is Cause.FINE


def test_no_network_explains_a_clock_that_explains_a_port_that_explains_a_router_that_explains_its_relays() -> None:
    chain = [Cause.NO_NETWORK, Cause.CLOCK, Cause.PORT, Cause.ROUTER, Cause.RELAYS, Cause.SILENT]
    for place, cause in enumerate(chain):
        assert diagnose([fails(each) for each in reversed(chain[place:])]).cause is cause


@pytest.mark.parametrize("cause", ELSEWHERE)
def test_asked_about_a_peer_it_does_not_answer_with_what_others_cannot_do(cause: Cause) -> None:
    refused = Finding(Check.ADDRESS, State.FAILURE, "refused", Cause.REFUSED)
    assert diagnose([fails(cause), refused]).cause is Cause.REFUSED
    reached = Finding(Check.CONNECTION, State.OK, "direct")
    assert diagnose([fails(cause), reached]).cause is Cause.FINE


def test_of_a_peer_that_was_reached_its_dead_addresses_do_not_matter() -> None:
    dead = [fails(Cause.SILENT, Check.ADDRESS), fails(Cause.OTHER_PEER, Check.ADDRESS)]
    assert diagnose(dead).cause is Cause.OTHER_PEER
    assert diagnose([*dead, Finding(Check.ADDRESS, State.OK, "it answers")]).cause is Cause.FINE
    relayed = warns(Cause.RELAYED, Check.CONNECTION)
    assert (diagnose([*dead, relayed]).cause, diagnose([*dead, relayed]).is_fine) == (Cause.RELAYED, True)


def test_a_connection_that_carries_nothing_proves_nothing() -> None:
    stands = Finding(Check.CONNECTION, State.OK, "direct")
    broken = fails(Cause.BROKEN_PATH, Check.ROUND_TRIP)
    assert diagnose([stands, broken, fails(Cause.MUTE, Check.ADDRESS)]).cause is Cause.MUTE
    assert diagnose([stands, broken, Finding(Check.ADDRESS, State.OK, "")]).cause is Cause.BROKEN_PATH


def test_a_peer_that_was_reached_refutes_that_nobody_answers() -> None:
    reached = Finding(Check.ADDRESS, State.OK, "it answers")
    assert not diagnose([fails(Cause.CUT_OFF)]).is_fine
    assert diagnose([fails(Cause.CUT_OFF), reached]).is_fine


def test_programs_get_names_and_no_sentences_for_what_they_branch_on() -> None:
    assert finding_as_json(fails(Cause.NO_ROUTE, Check.ADDRESS)) == {
        "check": "address", "state": "failure", "subject": None, "words": "words", "cause": "no_route"
    }  # fmt: skip
    assert diagnosis_as_json(diagnose([]))["verdict"] == "fine"
