"""The swarms that a peer lists in public."""

import pytest

from shoal.dht.listing import LISTED_MAX, ListedSwarm, listing_body, open_listing
from shoal.dht.records import BODY_BYTES_MAX
from shoal.transport.wire import Malformed

FULL = ListedSwarm(bytes(32), "é" * 64, "x" * 1024)


def test_a_full_listing_fits_a_record_and_comes_back() -> None:
    swarms = (FULL,) * LISTED_MAX
    assert len(listing_body(swarms)) <= BODY_BYTES_MAX
    assert open_listing(listing_body(swarms)) == swarms


@pytest.mark.parametrize(
    "swarms", [(FULL,) * (LISTED_MAX + 1), (ListedSwarm(b"", "", ""),), (ListedSwarm(bytes(32), "x" * 65, ""),)]
)
def test_more_swarms_or_longer_names_than_allowed_are_refused(swarms: tuple[ListedSwarm, ...]) -> None:
    assert isinstance(open_listing(listing_body(swarms)), Malformed)
