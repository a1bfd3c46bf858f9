"""Ten thousand requests that no honest client sends: none may pass, evict, crash, or get a 5xx of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from fuzz import bodies, broken
from fuzz.storm import BATCH, fuzzers_key, nothing_breaks, storm
from fuzz.verdict import judge
from fuzz.wire import Attempt, exchange
from hypothesis import strategies as st
from lab_site import Figure, Site


@pytest.fixture(scope="module")
def key(site: Site) -> Iterator[str]:
    with fuzzers_key(site.file) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def nothing_broke(site: Site) -> Iterator[None]:
    with nothing_breaks(site):
        yield
    assert site.answers(bodies.ALLOWED)


@pytest.mark.parametrize(("make", "batches"), [(bodies.attempts, 340), (broken.attempts, 80)], ids=["bodies", "broken"])
def test_nothing_gets_through(
    site: Site, key: str, figure: Figure, make: Callable[[str], st.SearchStrategy[Attempt]], batches: int
) -> None:
    address = (urlsplit(site.url).hostname or "", urlsplit(site.url).port or 80)
    statuses = storm(make(key), batches, lambda attempt: exchange(address, attempt), judge)
    counts = ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items()))
    figure(f"{BATCH * batches} hostile requests: {counts}")
    # The storm was one: much was refused, and what was right was answered.
    assert statuses[400] > BATCH * batches / 20
    assert statuses[200] > BATCH * batches / 20
