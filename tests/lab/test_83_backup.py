"""What people wrote in the chat is saved while it runs, and comes back after everything was lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from chat_person import member
from lab_site import Figure, Site, changed, flexi

pytestmark = pytest.mark.usefixtures("site")

CANARY = "Kanarienvogel 4711 singt im Hörsaal"
BOT = "course-statistik-1"
QUESTION = "Wann und wo ist die Klausur?"
FACT = "Alten Reithalle"


@pytest.fixture
def keys(site: Site, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The lab's site file with a recipient, and the file with the private key."""
    key = pyrage.x25519.Identity.generate()
    identity = tmp_path / "backup.key"
    identity.touch(mode=0o600)
    identity.write_text(f"# public key: {key.to_public()}\n{key}\n")
    file = changed(site, "\nchat:\n", f"\nchat:\n  backup: {{recipients: [{key.to_public()}]}}\n", "backup")
    yield file, identity
    file.unlink()
    file.with_suffix(".py").unlink()


def test_everything_comes_back_after_a_wipe(
    site: Site, keys: tuple[Path, Path], tmp_path: Path, figure: Figure
) -> None:
    file, identity = keys
    with member(site) as person:
        person.write(CANARY, BOT)
        before = person.written()
        bots = person.models()
        assert CANARY in before
        assert BOT in bots

        start = time.monotonic()
        saved = flexi("backup", str(file), "--to", str(tmp_path))
        assert saved.status == 0, saved.text
        (archive,) = tmp_path.glob("*.age")
        content = archive.read_bytes()
        figure(f"the lab's chat is saved in {time.monotonic() - start:.1f} s, {len(content)} bytes")
        assert content.startswith(b"age-encryption.org/v1\n")
        for canary in (CANARY, person.mail, FACT, "SQLite format 3"):
            assert canary.encode() not in content

        wiped = site.ssh(
            "gateway",
            "sudo sh -c 'systemctl stop flexi-chat && rm -rf /var/lib/flexi-chat/* && systemctl start flexi-chat'",
            timeout_s=180,
        )
        assert wiped.status == 0, wiped.text
        with pytest.raises(AssertionError, match="The email or password provided is incorrect"):
            person.sign_in()

        wrong = tmp_path / "wrong.key"
        wrong.write_text(str(pyrage.x25519.Identity.generate()))
        refused = flexi("restore", str(file), str(archive), "--identity", str(wrong), "--yes")
        assert refused.status == 2
        assert "is not for this key" in refused.stderr

        start = time.monotonic()
        restored = flexi("restore", str(file), str(archive), "--identity", str(identity), "--yes")
        assert restored.status == 0, restored.text
        figure(f"and brought back in {time.monotonic() - start:.1f} s")
        person.sign_in()
        assert not person.must_agree()
        assert person.written() == before
        assert person.models() == bots
        answer = person.ask(BOT, QUESTION)
        assert FACT in answer["choices"][0]["message"]["content"]
    dry = site.pyinfra("--dry", "--json", "--limit", "gateway")
    assert [step["name"] for step in json.loads(dry.stdout)["plan"] if step["hosts_with_change"]] == []
