"""Certificate files that cannot serve are refused before any host is touched, in one sentence with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.authority import Issued, authority_pem, issue

from flexi.errors import InputError
from flexi.local_files import certificates
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site

NAME = "flexi.example.edu"
SITE = """\
site: {{name: test}}
ssh: {{user: admin}}
hosts:
  one:
    address: 192.0.2.1
    gpus: {{model: RTX A5000, count: 1}}
    groups:
      a: {{gpus: all, models: [llama3:8b]}}
gateway: {{host: one, name: {name}, tls: {tls}}}
"""


def plan_of(directory: Path, tls: str = "{certificate: gateway.pem, key: gateway.key}", name: str = NAME) -> Plan:
    path = directory / "test.yaml"
    path.write_text(SITE.format(tls=tls, name=name))
    return build_plan(load_site(path))


def refused(directory: Path, certificate: str, key: str, name: str = NAME) -> str:
    (directory / "gateway.pem").write_text(certificate)
    (directory / "gateway.key").write_text(key)
    with pytest.raises(InputError) as error:
        certificates.check(plan_of(directory, name=name))
    assert "PRIVATE" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def good() -> Issued:
    return issue("other.example.edu", NAME)


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ((NAME,), NAME),
        (("FLEXI.example.edu",), NAME),
        (("*.example.edu",), NAME),
        (("192.0.2.7",), "192.0.2.7"),
    ],
)
def test_what_clients_accept_is_accepted(names: tuple[str, ...], name: str, tmp_path: Path) -> None:
    issued = issue(*names)
    (tmp_path / "gateway.pem").write_text(issued.certificate + authority_pem())
    (tmp_path / "gateway.key").write_text(issued.key)
    certificates.check(plan_of(tmp_path, name=name))
    chain = certificates.pem(str(tmp_path / "gateway.pem"), str(tmp_path / "gateway.key"))
    assert chain == issued.certificate + authority_pem() + issued.key


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (("example.edu",), NAME),
        (("*.flexi.example.edu",), NAME),
        (("*.edu",), NAME),
        (("f*.example.edu",), NAME),
        (("192.0.2.8",), "192.0.2.7"),
        ((), NAME),
    ],
)
def test_a_certificate_of_another_name(names: tuple[str, ...], name: str, tmp_path: Path) -> None:
    issued = issue(*names)
    words = refused(tmp_path, issued.certificate, issued.key, name)
    assert f"is not for {name}, but for {', '.join(names) or 'no name at all'}" in words


def test_a_certificate_that_is_not_for_the_chat_as_well(tmp_path: Path, good: Issued) -> None:
    (tmp_path / "gateway.pem").write_text(good.certificate)
    (tmp_path / "gateway.key").write_text(good.key)
    path = tmp_path / "test.yaml"
    text = SITE.format(tls="{certificate: gateway.pem, key: gateway.key}", name=NAME)
    for name in ("other.example.edu", "chat.example.edu"):
        path.write_text(f"{text}chat: {{host: one, name: {name}}}\n")
        plan = build_plan(load_site(path))
        if name == "other.example.edu":
            certificates.check(plan)
            continue
        with pytest.raises(InputError, match=r"is not for chat\.example\.edu, but for other\.example\.edu, flexi"):
            certificates.check(plan)


def test_a_file_that_is_not_there(tmp_path: Path, good: Issued) -> None:
    with pytest.raises(InputError, match=r"gateway.tls.certificate: .*gateway.pem cannot be read \(no such file"):
        certificates.check(plan_of(tmp_path))
    (tmp_path / "gateway.pem").write_text(good.certificate)
    with pytest.raises(InputError, match=r"gateway.tls.key: .*gateway.key cannot be read \(no such file"):
        certificates.check(plan_of(tmp_path))


def test_what_is_no_certificate_or_no_key(tmp_path: Path, good: Issued) -> None:
    assert "gateway.pem holds no certificate in PEM" in refused(tmp_path, good.key, good.key)
    assert "gateway.key holds no private key in PEM" in refused(tmp_path, good.certificate, good.certificate)
    (tmp_path / "gateway.pem").write_bytes(b"\x30\x82\xff")
    with pytest.raises(InputError, match="is no text file: convert it to PEM"):
        certificates.check(plan_of(tmp_path))


def test_a_key_that_does_not_fit(tmp_path: Path, good: Issued) -> None:
    assert "gateway.key is not the key of" in refused(tmp_path, good.certificate, issue(NAME).key)


def test_the_own_certificate_behind_the_authoritys(tmp_path: Path, good: Issued) -> None:
    assert "own certificate must come first" in refused(tmp_path, authority_pem() + good.certificate, good.key)


def test_a_key_with_a_passphrase(tmp_path: Path, good: Issued) -> None:
    words = refused(tmp_path, good.certificate, good.locked_key)
    assert "has a passphrase, which nobody can type at boot" in words
    assert "openssl pkey -in" in words


def test_a_certificate_that_has_ended(tmp_path: Path) -> None:
    issued = issue(NAME, days=-1)
    assert "ended on 20" in refused(tmp_path, issued.certificate, issued.key)


def account_of(directory: Path, text: str) -> certificates.ExternalAccount | None:
    (directory / "account.json").write_text(text)
    plan = plan_of(directory, "{acme: {email: flexi@example.edu, account: account.json}}")
    certificates.check(plan)
    assert plan.gateway.tls is not None
    assert plan.gateway.tls.acme is not None
    return certificates.external_account(plan.gateway.tls.acme.account)


def test_the_external_account_is_read(tmp_path: Path) -> None:
    account = account_of(tmp_path, '{"kid": "k1", "hmac_key": "c2VjcmV0"}')
    assert account == certificates.ExternalAccount("k1", "c2VjcmV0")


@pytest.mark.parametrize(
    "text",
    [
        "c2VjcmV0",
        '["c2VjcmV0"]',
        '{"kid": "k1"}',
        '{"kid": "k1", "hmac_key": "c2VjcmV0", "more": 1}',
        '{"kid": "k1", "hmac_key": 5}',
        '{"kid": "", "hmac_key": "c2VjcmV0"}',
        '{"kid": "k1", "hmac_key": "c2VjcmV0\\nserver = https://elsewhere.example"}',
    ],
)
def test_a_file_that_is_no_external_account(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gateway\.tls\.acme\.account: ") as error:
        account_of(tmp_path, text)
    assert "c2VjcmV0" not in str(error.value)


def test_no_file_is_asked_for_where_the_gateway_makes_its_own(tmp_path: Path) -> None:
    certificates.check(plan_of(tmp_path, "{self_signed: true}"))
