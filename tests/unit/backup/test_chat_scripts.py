"""The shell scripts that run on the chat's host, run here on a directory of their own."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from flexi.catalog import CHAT_RELEASES, chat_lock, uv_lock
from flexi.errors import InputError
from flexi.local_files.chat import check_picture
from flexi.operations import chat
from flexi.plan.build.chat_settings import environment_file
from flexi.plan.model.chat import ChatHostPlan
from flexi_chat.gate.logo import show_logo


def sh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


def test_secrets_are_made_once_and_the_gateway_can_know_the_key_by_its_digest(tmp_path: Path) -> None:
    path, digest = tmp_path / "secrets.env", tmp_path / "key.sha256"
    script = chat.secrets_script(str(path), str(digest))
    assert sh(script).returncode == 0
    first = path.read_text()
    values = dict(line.split("=", 1) for line in first.splitlines() if not line.startswith("#"))
    key = values["RAG_OLLAMA_API_KEY"]
    assert re.fullmatch(r"[0-9a-f]{64}", key)
    assert len({key, values["WEBUI_SECRET_KEY"], values["WEBUI_ADMIN_PASSWORD"]}) == 3
    # As systemd takes the quotes away, it is what Open WebUI reads.
    assert json.loads(values["OLLAMA_API_CONFIGS"].strip("'")) == {"0": {"enable": True, "key": key}}
    assert digest.read_text().strip() == hashlib.sha256(key.encode()).hexdigest()
    assert (path.stat().st_mode & 0o777, digest.stat().st_mode & 0o777) == (0o600, 0o644)
    # A digest that was lost is made again, of the same key.
    digest.unlink()
    assert sh(script).returncode == 0
    assert path.read_text() == first
    assert digest.read_text().strip() == hashlib.sha256(key.encode()).hexdigest()


def plan(python: Path) -> ChatHostPlan:
    return ChatHostPlan.model_construct(
        packages=(), python=str(python), index="http://192.0.2.1/simple", version="0.12.4", release="0.12.4-abc"
    )


PYTHON = """#!/bin/sh
case "$*" in
"-m venv .tools") mkdir -p .tools/bin; cp "$0" .tools/bin/pip; cp "$0" .tools/bin/uv ;;
*"-r uv.lock") echo "$*" >>{log} ;;
*"venv -q"*) mkdir -p 0.12.4-abc/bin; cp "$0" 0.12.4-abc/bin/python ;;
*"packages.lock") echo "$*" >>{log}; exit {status} ;;
*importlib.metadata*) echo {version} ;;
esac
"""


@pytest.mark.parametrize(
    ("status", "version", "whole"), [(0, "0.12.4", True), (1, "0.12.4", False), (0, "0.9.0", False)]
)
def test_a_venv_counts_once_it_is_whole(tmp_path: Path, status: int, version: str, whole: bool) -> None:
    python = tmp_path / "python3.11"
    python.write_text(PYTHON.format(log=tmp_path / "log", status=status, version=version))
    python.chmod(0o755)
    root = tmp_path / "chat"
    (root / "0.12.4-abc/half").mkdir(parents=True)
    (root / "packages.lock").write_text("lock")
    (root / "uv.lock").write_text("lock")
    done = sh(chat.venv_script(plan(python), str(root)))
    mark = root / "0.12.4-abc/.lock-sha256"
    assert (done.returncode == 0, mark.exists()) == (whole, whole), done.stderr
    assert not (root / "0.12.4-abc/half").exists()
    if whole:
        assert mark.read_text().strip() == hashlib.sha256(b"lock").hexdigest()
        assert sorted(path.name for path in root.iterdir()) == ["0.12.4-abc"]
    for line in (tmp_path / "log").read_text().splitlines():
        assert {"--require-hashes", "--only-binary"} <= set(line.split()), line


@pytest.mark.parametrize("name", ["uv", *CHAT_RELEASES])
def test_every_package_is_pinned_by_hash_and_names_no_address(name: str) -> None:
    text = uv_lock() if name == "uv" else chat_lock(name)
    assert "://" not in text
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"^(torch|nvidia-|transformers)", text, re.M)
    if name != "uv":
        assert f"open-webui=={name} " in text


def test_a_value_comes_back_from_systemds_quotes(tmp_path: Path) -> None:
    """By the rules of systemd.exec(5) a POSIX shell reads such a file the same way."""
    value = 'Uni "Hagen" $HOME `id` \\ back'
    path = tmp_path / "chat.env"
    path.write_text(environment_file((("TITLE", value),)))
    assert sh(f'. {path}; printf %s "$TITLE"').stdout == value


def test_the_logo_stands_beside_what_open_webui_has(tmp_path: Path) -> None:
    logo, static = tmp_path / "logo.png", tmp_path / "static"
    static.mkdir()
    (static / "custom.css").write_text("theirs {}")
    show_logo(logo, static)
    assert (static / "custom.css").read_text() == "theirs {}"
    logo.write_bytes(b"png")
    show_logo(logo, static)
    assert (static / "site-logo.png").read_bytes() == b"png"
    assert (static / "custom.css").read_text().startswith("theirs {}")
    assert "/static/site-logo.png" in (static / "custom.css").read_text()


def test_a_logo_that_is_no_png_is_refused_before_any_host_is_touched(tmp_path: Path) -> None:
    logo = tmp_path / "logo.png"
    for content, word in ((None, "cannot be read"), (b"<svg/>", "is no PNG")):
        if content is not None:
            logo.write_bytes(content)
        with pytest.raises(InputError, match=word):
            check_picture(str(logo))
    logo.write_bytes(b"\x89PNG\r\n\x1a\nmore")
    check_picture(str(logo))
