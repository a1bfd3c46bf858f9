"""The plan as a page: everything is on it, on wide and narrow terminals, with and without colour."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from flexi.plan import Plan
from flexi.plan.render import _ranges, render_plan


def page(plan: Plan, width: int, **options: object) -> str:
    out = io.StringIO()
    render_plan(plan, Console(file=out, width=width, **options))  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("width", [140, 100, 80, 60, 40])
def test_every_model_host_and_instance_is_on_the_page(width: int, inventory: Callable[[str], Plan]) -> None:
    plan = inventory("hagen")
    text = page(plan, width)
    for host in plan.hosts:
        assert host.name in text
        assert host.ssh.address in text
    for instance in plan.instances:
        assert f"group {instance.group}  port {instance.port}" in text
        for model in instance.models:
            assert model.name in text
            assert f"{model.weights_bytes / 1e9:.1f} GB" in text
    assert max(map(len, text.splitlines())) <= width


def test_the_page_for_the_wall(inventory: Callable[[str], Plan]) -> None:
    text = page(inventory("hagen"), 100)
    assert "8 × RTX A5000  ·  driver 535-server  ·  CUDA 12.4  ·  Ollama 0.24.0" in text
    assert "GPUs 0-7" in text
    assert "92%" in text
    assert "inventory/hagen.yaml:" in text
    assert "\x1b" not in text


def test_a_terminal_without_unicode(inventory: Callable[[str], Plan]) -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    out = Ascii()
    render_plan(inventory("example"), Console(file=out, width=100))
    assert out.getvalue().isascii()


def test_colour_is_the_consoles_business(inventory: Callable[[str], Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in page(inventory("hagen"), 100, force_terminal=True, color_system="truecolor")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in page(inventory("hagen"), 100, force_terminal=True)


def test_ranges() -> None:
    assert _ranges((0, 1, 2, 3)) == "0-3"
    assert _ranges((3, 0, 1)) == "0-1, 3"
    assert _ranges(("GPU-11111111-2222-3333-4444-555555555555",)) == "GPU-11111111"
