"""Open WebUI's own page of settings changes nothing that comes from the site file."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flexi_chat.gate.fixed import fix_settings


class Config:
    """The two methods of Open WebUI's class (models/config.py of 0.12.4)."""

    values: dict[str, Any]

    @staticmethod
    async def get(key: str, default: Any = None) -> Any:
        return Config.values.get(key, default)

    @staticmethod
    async def upsert(updates: dict[str, Any], *, db: Any = None) -> None:
        Config.values |= updates


def test_another_value_is_refused_and_named_and_nothing_of_it_taken() -> None:
    Config.values = {"ui.enable_signup": False, "ollama.enable": True}
    fix_settings(Config, PermissionError)
    asyncio.run(Config.upsert({"ui.enable_signup": False}))
    with pytest.raises(PermissionError, match=r"site file.*ui\.enable_signup"):
        asyncio.run(Config.upsert({"ollama.enable": True, "ui.enable_signup": True}))
    assert Config.values == {"ui.enable_signup": False, "ollama.enable": True}
