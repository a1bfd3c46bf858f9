"""What is generated from the schema is fresh, complete and valid."""

from __future__ import annotations

import json

import jsonschema
import pytest
from ruamel.yaml import YAML

from flexi.catalog import platforms
from flexi.docgen import pages
from flexi.paths import INVENTORY, ROOT
from flexi.site.schema.site_file import SiteFile


def test_generated_files_are_fresh() -> None:
    assert pages.stale() == [], "run: .venv/bin/python -m flexi.docgen"


def test_a_stale_file_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pages, "reference", lambda: "changed\n")
    assert pages.main(["--check"]) == 1
    assert "docs/reference/site-file.md is stale" in capsys.readouterr().err


def test_every_key_has_a_meaning() -> None:
    schema = pages.json_schema()
    sections = [schema, *schema["$defs"].values()]
    for section in sections:
        for name, field in section["properties"].items():
            described = field.get("description") or any("$ref" in part for part in [field, *field.get("anyOf", ())])
            assert described, f"{section['title']}.{name}"
    page = pages.reference()
    for section in SiteFile.model_fields:
        assert f"`{section}" in page
    assert "## `hosts.<host>.firewall.allow[]`" in page
    assert "| `from` | list of text |" in page


def test_the_platforms_page_has_every_row_and_says_what_is_not_verified() -> None:
    page = pages.platforms.page()
    for name, platform in platforms.PLATFORMS.items():
        for branch, shipped in platform.drivers.items():
            section = page.split(f"### {name}, {branch}\n")[1].split("\n### ")[0]
            names = (*shipped.packages, *shipped.holds, shipped.module_package, *shipped.kernel_packages)
            assert all(f"`{package}`" in section for package in names)
            assert all(source in section for source in shipped.sources)
            assert (shipped.unverified or "") in section
            assert all(f"`{pin.pin}`" in section for pin in shipped.pins)
    for row in (*platforms.BRANCHES.values(), *platforms.PLATFORMS.values()):
        assert row.sources
        assert all(source in page for source in row.sources)


@pytest.mark.parametrize("site", sorted(path.stem for path in INVENTORY.glob("*.yaml")))
def test_site_files_agree_with_the_json_schema_and_name_it(site: str) -> None:
    text = (INVENTORY / f"{site}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=../docs/site.schema.json\n")
    jsonschema.validate(YAML(typ="safe", pure=True).load(text), pages.json_schema())


def test_json_schema_refuses_unknown_keys_and_wrong_types() -> None:
    schema = pages.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    content = YAML(typ="safe", pure=True).load((INVENTORY / "lab.yaml").read_text(encoding="utf-8"))
    for change in ({"sit": {}}, {"ntp_servers": "x"}, {"driver": {"kernel": "x"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**content, **change}, schema)


def test_the_example_shows_every_key() -> None:
    """Commented out or not: an admin sees in one file what there is."""
    text = (INVENTORY / "example.yaml").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "docs/site.schema.json").read_text(encoding="utf-8"))
    left_out = {"memory_mib", "cuda_key_fingerprint"} | {
        *("embedding_length", "vocabulary", "experts", "embedding", "num_ctx", "parameters"),
        *("tokens_per_second", "source"),
    }
    for section in [schema, *schema["$defs"].values()]:
        for name in section["properties"]:
            assert name in left_out or f"{name}:" in text, name
