"""Keys of gateway.tls that do not go together are refused, each with its line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexi.plan import build_plan
from flexi.site import SiteError, load_site

SITE = """\
site: {{name: test}}
ssh: {{user: admin}}
hosts:
  one:
    address: 192.0.2.1
    gpus: {{model: RTX A5000, count: 1}}
    groups:
      a: {{gpus: all, models: [llama3:8b]}}
gateway:
  host: one
  name: {name}
  {more}
"""
ACME = "acme: {email: flexi@example.edu}"


def load(directory: Path, more: str, name: str = "flexi.example.edu") -> object:
    path = directory / "test.yaml"
    path.write_text(SITE.format(more=more, name=name))
    return build_plan(load_site(path))


@pytest.mark.parametrize(
    ("more", "path", "reason"),
    [
        ("tls: {}", "gateway.tls", "says nothing of a certificate"),
        ("tls: {http: closed}", "gateway.tls", "says nothing of a certificate"),
        ("tls: {certificate: a.pem}", "gateway.tls.certificate", "has no key to go with"),
        ("tls: {key: a.key}", "gateway.tls.key", "has no certificate to go with"),
        ("tls: {self_signed: true, " + ACME + "}", "gateway.tls.self_signed", "stands beside acme"),
        ("tls: {certificate: a, key: b, " + ACME + "}", "gateway.tls.acme", "stands beside certificate"),
        ("port: 80\n  tls: {self_signed: true}", "gateway.port", "is for plain HTTP"),
        ("tls: {self_signed: true, hsts: true}", "gateway.tls.hsts", "does not go with self_signed"),
        ("tls: {certificate: a, key: b, hsts: true, http: serve}", "gateway.tls.hsts", "does not go with http: serve"),
        ("tls: {" + ACME + ", http: serve}", "gateway.tls.http", "does not go with acme"),
        ("tls: {" + ACME + ", http: closed}", "gateway.tls.http", "does not go with acme"),
        ("tls: {acme: {email: nobody}}", "gateway.tls.acme.email", "is no mail address"),
        (
            "tls: {acme: {email: a@example.edu, directory: 'http://acme.example.edu'}}",
            "gateway.tls.acme.directory",
            "is no https address",
        ),
    ],
)
def test_what_does_not_go_together(more: str, path: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SiteError) as error:
        load(tmp_path, more)
    (finding,) = error.value.findings
    assert finding.path == path
    assert reason in finding.reason
    assert finding.remedy
    assert finding.line >= 10


@pytest.mark.parametrize("name", ["192.0.2.9", "flexi"])
def test_no_authority_certifies_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="is no name that an ACME authority certifies"):
        load(tmp_path, "tls: {" + ACME + "}", name)


@pytest.mark.parametrize(
    "more",
    [
        "port: 80\n  tls: {self_signed: true, http: closed}",
        "port: 8443\n  tls: {self_signed: true}",
        "tls: {certificate: a, key: b, hsts: true, http: closed}",
    ],
)
def test_what_goes_together(more: str, tmp_path: Path) -> None:
    load(tmp_path, more)
