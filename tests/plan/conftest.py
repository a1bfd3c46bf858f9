"""Sites for the plan's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flexi.paths import INVENTORY, ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import Site, load_site

MakeSite = Callable[..., Site]

TEXT = """\
site: {{name: test}}
ssh: {{user: admin}}
{more}
hosts:
  one:
    address: 192.0.2.1
    gpus: {{model: {card}, count: {count}}}
    {host}
    groups:
      a: {{gpus: all, models: [{models}], {group}}}
  two:
    address: 192.0.2.2
gateway: {{host: {gateway}, name: flexi.example.edu, {gateway_more}}}
"""


@pytest.fixture
def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSite:
    """A site with one GPU host and one group; every part can be changed by name."""
    monkeypatch.chdir(tmp_path)

    def make(**parts: object) -> Site:
        given = {
            "more": "",
            "card": "RTX A5000",
            "count": 2,
            "host": "",
            "models": "'llama3:8b'",
            "group": "",
            "gateway": "two",
            "gateway_more": "",
            **parts,
        }
        path = tmp_path / "test.yaml"
        path.write_text(TEXT.format(**given))
        return load_site(path)

    return make


@pytest.fixture
def inventory(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Plan]:
    """The plan of a site of the inventory."""
    monkeypatch.chdir(ROOT)
    return lambda name: build_plan(load_site(INVENTORY / f"{name}.yaml"))
