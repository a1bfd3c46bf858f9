"""One verdict: `status`, `verify` and `doctor` end with the same exit status and name the same thing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab_site import Site, another, flexi, until


def verdicts(site_file: Path) -> dict[str, tuple[int, str]]:
    """Exit status of the three commands, and what they say, asked at the same time."""
    commands = {
        "status": ("status", str(site_file), "--once"),
        "verify": ("verify", str(site_file)),
        "doctor": ("doctor", str(site_file)),
    }
    with ThreadPoolExecutor(max_workers=3) as pool:
        asked = {name: pool.submit(flexi, *words) for name, words in commands.items()}
        done = {name: future.result() for name, future in asked.items()}
    return {name: (one.status, " ".join(one.text.split())) for name, one in done.items()}


@pytest.fixture
def stopped(site: Site, request: pytest.FixtureRequest) -> Iterator[str]:
    """A service of the gateway that an admin has stopped."""
    unit: str = request.param
    site.ssh("gateway", f"sudo systemctl stop {unit}")
    yield unit
    site.ssh("gateway", f"sudo systemctl start {unit}")
    until(lambda: flexi("status", str(site.file), "--quick").status == 0, 120, "the site is well again")


@pytest.mark.parametrize("stopped", ["haproxy.service", "flexi-chat.service", "flexi-guard.service"], indirect=True)
def test_a_stopped_service_is_named_by_all_three(site: Site, stopped: str) -> None:
    for command, (status, text) in verdicts(site.file).items():
        assert status == 1, f"{command}: {text}"
        assert f"{stopped} is inactive" in text, f"{command}: {text}"


def test_keys_that_the_gateway_does_not_know_are_named_by_all_three(site: Site) -> None:
    """After `keys add --here` a deploy has to tell the gateway."""
    path = another(site, site.file.read_text(), "keys-here")
    done = flexi("keys", "add", str(path), "nobody-told", "--here")
    assert done.status == 0, done.text
    for command, (status, text) in verdicts(path).items():
        assert status == 1, f"{command}: {text}"
        assert "other keys" in text, f"{command}: {text}"


def test_a_program_reads_the_same_verdict(site: Site) -> None:
    well = flexi("status", str(site.file), "--json")
    report = json.loads(well.stdout)
    assert (well.status, report["well"], report["findings"]) == (0, True, [])
