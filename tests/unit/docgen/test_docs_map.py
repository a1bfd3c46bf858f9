"""Every page of docs/ has its place in the map, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flexi.paths import ROOT

DOCS = ROOT / "docs"
MAP = DOCS / "index.md"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)


def links(page: Path) -> list[tuple[Path, str]]:
    """Return file and anchor of every link of a page that leads to a file."""
    targets = [first or second for first, second in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    split = [target.partition("#") for target in local]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in split]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_stands_in_the_map() -> None:
    mapped = {path for path, _ in links(MAP)}
    assert {page for page in DOCS.rglob("*.md") if page != MAP} <= mapped


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        assert path.exists(), f"{page.name}: {path}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {path.name}#{anchor}"
