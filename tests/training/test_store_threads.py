"""A member's files under several worker threads at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shoal.training.store import MemberStore


def test_no_sequence_is_given_twice_however_many_threads_ask(tmp_path: Path) -> None:
    store = MemberStore(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(store.next_sequence) for _ in range(50)]
    assert sorted(future.result() for future in futures) == list(range(1, 51))
