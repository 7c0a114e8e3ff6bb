"""What a round's parts took."""

import pytest

from shoal.training.metering import RoundMeter
from shoal.transport.port import Traffic
from tests.training.round_member import ANN, BEN, DIGEST, closed, contribution, record_of


@pytest.mark.parametrize(
    ("started_at", "contributed_at", "phases"),
    [
        (10.0, 14.0, {"train": 4.0, "exchange": 3.0, "apply": 2.0}),
        (10.0, None, {"train": 7.0, "exchange": 0.0, "apply": 2.0}),
        (10.0, 9.0, {"train": 7.0, "exchange": 0.0, "apply": 2.0}),  # in the round before
        (10.0, 18.0, {"train": 7.0, "exchange": 0.0, "apply": 2.0}),  # while it was applied
        (18.0, None, {"train": 0.0, "exchange": 0.0, "apply": 2.0}),  # it was complete before it started here
        (18.0, 18.5, {"train": 0.0, "exchange": 0.0, "apply": 2.0}),
    ],
)
def test_a_rounds_phases_are_never_negative_and_make_up_its_time(
    started_at: float, contributed_at: float | None, phases: dict[str, float]
) -> None:
    meter = RoundMeter(ANN.peer_id, Traffic(100, 200))
    if contributed_at is not None:
        meter.contribute(contributed_at)
    record = record_of(contribution(ANN), contribution(BEN))
    report = meter.close(19.0, started_at, 17.0, Traffic(150, 270), closed(record), DIGEST)
    assert report.phases == phases
    assert report.seconds == sum(phases.values())
    assert (report.bytes_sent, report.bytes_received) == (50, 70)
