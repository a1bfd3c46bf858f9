"""The chat's store of vectors is made with few files to open, and the chat goes on with as many as before."""

from __future__ import annotations

import resource

from flexi_chat.gate import file_limit


def test_low_while_the_store_is_made_and_as_before_after() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    was = file_limit.lower()
    try:
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (500, before[1])
    finally:
        file_limit.restore(was)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
