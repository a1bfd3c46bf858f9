"""Settings stay what the site file says: Open WebUI's own page of settings changes none of them.

With ENABLE_PERSISTENT_CONFIG=false such a change would hold until the next start, in one process of several
(open_webui/models/config.py of 0.12.4, Config.upsert).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

SENTENCE = "This setting comes from the site file: change it there and deploy."


def fix_settings(config: Any, refusal: Callable[[str], Exception]) -> None:
    """Let `config` (Open WebUI's class Config) take no other values than those that it has; `refusal` makes the
    exception that its page shows."""

    async def upsert(updates: Mapping[str, Any], *, db: Any = None) -> None:
        others = [key for key, value in updates.items() if await _current(config, key) != value]
        if others:
            raise refusal(f"{SENTENCE} ({', '.join(sorted(others))})")

    config.upsert = staticmethod(upsert)


async def _current(config: Any, key: str) -> Any:
    get: Callable[[str], Awaitable[Any]] = config.get
    return await get(key)
