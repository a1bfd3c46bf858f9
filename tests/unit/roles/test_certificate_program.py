"""The program that brings certificates to HAProxy, and the look at what HAProxy has: run by a real shell."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.authority import authority_pem, issue

from flexi.facts.gateway import CertificateState, GatewayCertificate
from flexi.paths import ROOT

PROGRAM = ROOT / "templates/gateway/flexi-certificate"
NAMES = ("DNS:flexi.example.edu", "IP:192.0.2.7")

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    directory = tmp_path / "tables"
    directory.mkdir()
    return directory


@pytest.fixture
def run(tables: Path, tmp_path: Path) -> Run:
    """Runs the program with a HAProxy that takes only what has a private key."""
    programs = tmp_path / "bin"
    programs.mkdir()
    haproxy = programs / "haproxy"
    haproxy.write_text(
        '#!/bin/sh\nfor file; do :; done\ngrep -q "PRIVATE KEY" "$(sed -n "s/.*crt //p" "$file")" ||'
        ' { echo "no private key" >&2; exit 1; }\n'
    )
    systemctl = programs / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/systemctl.log\n')
    for program in (haproxy, systemctl):
        program.chmod(0o755)

    def call(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(PROGRAM), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "FLEXI_TABLES": str(tables), **environment},
        )

    return call


def look(file: Path) -> CertificateState:
    words = shlex.split(str(GatewayCertificate().command(str(file))))
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "PRIVATE" not in done.stdout
    return GatewayCertificate().process(done.stdout.splitlines())


def test_a_certificate_takes_the_old_ones_place(run: Run, tables: Path) -> None:
    issued = issue("flexi.example.edu")
    pem = issued.certificate + authority_pem() + issued.key
    assert run("install", stdin=pem).returncode == 0
    in_use = tables / "gateway.pem"
    assert in_use.read_text() == pem
    assert in_use.stat().st_mode & 0o777 == 0o600
    truth = look(in_use)
    assert truth.sha256 == hashlib.sha256(pem.encode()).hexdigest()
    assert (truth.self_signed, truth.lasts) == (False, True)
    assert truth.names == {"DNS:flexi.example.edu"}


def test_what_haproxy_does_not_take_changes_nothing(run: Run, tables: Path) -> None:
    (tables / "gateway.pem").write_text("the old one")
    done = run("install", stdin=issue("flexi.example.edu").certificate)
    assert done.returncode == 1
    assert "no private key" in done.stderr
    assert "the one before stays in use" in done.stderr
    assert [path.name for path in tables.iterdir()] == ["gateway.pem"], "a draft with a key was left behind"
    assert (tables / "gateway.pem").read_text() == "the old one"


def test_a_certificate_of_its_own_is_for_all_names(run: Run, tables: Path) -> None:
    done = run("self-signed", *NAMES)
    assert done.returncode == 0, done.stderr
    truth = look(tables / "gateway.pem")
    assert (truth.self_signed, truth.names, truth.lasts) == (True, frozenset(NAMES), True)
    text = subprocess.run(
        ["openssl", "x509", "-in", str(tables / "gateway.pem"), "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "CA:FALSE" in text, "whoever trusts it would trust whatever it signs"


def test_one_that_ends_within_a_month_does_not_last(tables: Path) -> None:
    for days, lasts in ((29, False), (31, True)):
        (tables / "gateway.pem").write_text(issue("flexi.example.edu", days=days).certificate)
        assert look(tables / "gateway.pem").lasts is lasts


def test_there_is_none_yet(tables: Path) -> None:
    assert look(tables / "gateway.pem").sha256 is None


def test_certbots_hook_leaves_a_site_alone_that_orders_nothing(run: Run, tables: Path, tmp_path: Path) -> None:
    (tables / "gateway.pem").write_text("from files")
    assert not Path("/etc/flexi/certbot.ini").exists()
    assert run("renewed", RENEWED_LINEAGE=str(tmp_path)).returncode == 0
    assert (tables / "gateway.pem").read_text() == "from files"
    assert not (tmp_path / "systemctl.log").exists()


def test_a_renewed_one_is_taken_by_a_reload(run: Run, tables: Path, tmp_path: Path) -> None:
    issued = issue("flexi.example.edu")
    (tmp_path / "fullchain.pem").write_text(issued.certificate)
    (tmp_path / "privkey.pem").write_text(issued.key)
    settings = tmp_path / "certbot.ini"
    settings.write_text("")
    done = run("renewed", RENEWED_LINEAGE=str(tmp_path), FLEXI_SETTINGS=str(settings))
    assert done.returncode == 0, done.stderr
    assert (tables / "gateway.pem").read_text() == issued.certificate + issued.key
    assert (tmp_path / "systemctl.log").read_text() == "reload haproxy.service\n"
