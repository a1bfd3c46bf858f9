"""Classes of consumers in the site file, and what the plan makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.site_text import GOOD

from flexi.plan import build_plan
from flexi.plan.model.gateway import ClassPlan
from flexi.site import SiteError, load_site


def site_file(tmp_path: Path, gateway: str) -> Path:
    """A good site file with more lines under `gateway:`."""
    path = tmp_path / "test.yaml"
    path.write_text(GOOD + "".join(f"  {line}\n" for line in gateway.splitlines()))  # `gateway:` stands last
    return path


def classes(tmp_path: Path, gateway: str = "") -> dict[str, ClassPlan]:
    plan = build_plan(load_site(site_file(tmp_path, gateway)))
    return {found.name: found for found in plan.gateway.classes}


def test_a_site_without_classes_has_those_that_are_always_there(tmp_path: Path) -> None:
    found = classes(tmp_path)
    assert list(found) == ["default", "anonymous", "flexi-health"]
    assert (found["default"].models, found["default"].options, found["default"].networks) == (None, "fixed", ())
    assert found["anonymous"].per_minute is not None, "strangers are bounded"
    assert found["flexi-health"].per_minute is None


def test_a_class_says_all_that_its_consumers_may_do(tmp_path: Path) -> None:
    found = classes(
        tmp_path,
        "classes:\n  course: {models: ['LLAMA3:8b'], at_once: 2, per_minute: 3, per_hour: 4, per_day: 5, "
        "priority: batch, networks: [198.51.100.0/24, '2001:db8::/32'], options: [num_ctx, keep_alive]}",
    )["course"]
    assert found == ClassPlan(
        name="course",
        models=("LLAMA3:8b",),
        at_once=2,
        per_minute=3,
        per_hour=4,
        per_day=5,
        priority="batch",
        networks=("198.51.100.0/24", "2001:db8::/32"),
        options=("num_ctx", "keep_alive"),
    )


def test_the_default_class_may_be_set(tmp_path: Path) -> None:
    found = classes(tmp_path, "classes:\n  default: {at_once: 3}")
    assert list(found) == ["default", "anonymous", "flexi-health"]
    assert found["default"].at_once == 3


def test_interactive_goes_before_batch_however_much_either_has_waiting(tmp_path: Path) -> None:
    found = classes(tmp_path, "classes:\n  course: {priority: batch, at_once: 1000}\n  staff: {at_once: 1000}")
    assert found["staff"].base + 999 < found["course"].base + 1
    assert found["course"].base + found["course"].at_once <= 2047, "HAProxy knows no higher one"


@pytest.mark.parametrize(
    ("gateway", "words"),
    [
        ("classes: {a: {models: [nosuch]}}", "nosuch:latest' is no model of any group"),
        ("classes: {a: {models: [llama3:8]}}", "did you mean 'llama3:8b'?"),
        ("classes: {a: {models: al}}", "is no selection of models; write all, or a list"),
        ("classes: {a: {models: []}}", "is no selection of models"),
        ("classes: {a: {models: ['a b']}}", "is no model name of Ollama"),
        ("classes: {a: {options: [numctx]}}", "did you mean 'num_ctx'?"),
        ("classes: {a: {options: all}}", "write any, fixed, or a list"),
        ("classes: {a: {at_once: 0}}", "write 1 or more"),
        ("classes: {a: {max_answer_tokens: 0}}", "write 1 or more"),
        ("classes: {a: {max_answer_token: 5}}", "did you mean 'max_answer_tokens'?"),
        ("max_answer_tokens: -1", "write 1 or more"),
        ("max_answer_tokens: many", "max_answer_tokens"),
        ("classes: {a: {per_minut: 1}}", "did you mean 'per_minute'?"),
        ("classes: {a: {priority: high}}", "write one of interactive, batch"),
        ("classes: {a: {networks: [198.51.100.1/24]}}", "did you mean '198.51.100.0/24'?"),
        ("classes: {flexi-health: {}}", "is the class of flexi's own health checks"),
        ("classes: {A: {}}", "is no name for a class"),
        ("cors: [https://moodle.example.edu/]", "is no origin"),
        ("cors: ['*']", "is no origin"),
        ("cors: [moodle.example.edu]", "is no origin"),
        ("cors: [https://moodle.example.edu:443]", "did you mean 'https://moodle.example.edu'?"),
        ("cors: [https://user@moodle.example.edu]", "is no origin"),
        ("cors: ['https://a\"b.example.edu']", "is no host name"),
        ("anonymous: [ps]", "write one of tags, version, show"),
    ],
)
def test_what_cannot_be_is_said_with_its_remedy(tmp_path: Path, gateway: str, words: str) -> None:
    with pytest.raises(SiteError) as caught:
        load_site(site_file(tmp_path, gateway))
    (finding,) = caught.value.findings
    assert words in str(finding)
    assert finding.line > 1


@pytest.mark.parametrize("origin", ["https://moodle.example.edu", "http://localhost:8080", "https://192.0.2.7:8443"])
def test_origins_as_browsers_send_them(tmp_path: Path, origin: str) -> None:
    assert build_plan(load_site(site_file(tmp_path, f"cors: [{origin}]"))).gateway.cors == (origin,)
