"""Two processes of the chat on a real PostgreSQL with pgvector and a real Redis, made by the deploy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyrage
import pytest
from chat_person import Member
from lab_site import Site, changed, flexi, until
from pgvector_packages import offered

pytestmark = pytest.mark.usefixtures("site")

MAIL = "postgres@flexi.lab.test"
MODEL = "phi3:3.8b"
DATA = "/var/lib/flexi-chat"
ASIDE = "/var/lib/flexi-chat.sqlite"


@dataclass
class Wide:
    """The lab's site with two processes of the chat."""

    file: Path
    identity: Path


@pytest.fixture(scope="module")
def wide(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wide]:
    """Deployed; afterwards the lab has its chats in SQLite again."""
    folder = tmp_path_factory.mktemp("postgresql")
    key = pyrage.x25519.Identity.generate()
    identity = folder / "backup.key"
    identity.write_text(str(key))
    more = f"  database: postgresql\n  workers: 2\n  backup: {{recipients: [{key.to_public()}]}}\n"
    file = changed(site, "\nchat:\n", f"\nchat:\n{more}", "postgresql")
    platform = site.plan.host("gateway").platform
    with offered(site, "gateway", f"postgresql-{VERSIONS[platform]}", folder):
        hidden = flexi("deploy", str(file), "--limit", "gateway", "--no-wait", timeout_s=300)
        assert hidden.status == 1, hidden.text[-3000:]
        assert f"the chats are in SQLite ({DATA}/webui.db)" in hidden.text
        assert (
            root(site, "systemctl is-active flexi-chat; grep -c postgresql /etc/flexi/chat.env || :") == "active\n0\n"
        )
        root(site, f"systemctl is-active -q flexi-chat && systemctl stop flexi-chat && mv {DATA} {ASIDE}")
        try:
            done = flexi("deploy", str(file), "--limit", "gateway", "--no-wait", timeout_s=900)
            assert done.status == 0, done.text[-6000:]
            yield Wide(file, identity)
        finally:
            root(site, f"systemctl stop flexi-chat && rm -rf {DATA} && mv {ASIDE} {DATA}")
            leave = ("--leave-chats", "postgresql")
            back = flexi("deploy", str(site.file), "--limit", "gateway", "--no-wait", *leave, timeout_s=900)
            assert back.status == 0, back.text[-6000:]
    for path in (file, file.with_suffix(".py"), file.with_suffix(".keys.json")):
        path.unlink(missing_ok=True)


VERSIONS = {"debian-12": "15", "ubuntu-22.04": "14", "ubuntu-24.04": "16"}
"""PostgreSQL of each platform (docs/chat/database.md)."""


def root(site: Site, script: str) -> str:
    done = site.ssh("gateway", f'sudo sh -c "{script}"', timeout_s=200)
    assert done.status == 0, done.text
    return done.stdout


@pytest.fixture(scope="module")
def person(site: Site, wide: Wide) -> Iterator[Member]:
    made = flexi("accounts", "add", str(wide.file), MAIL, "--json")
    assert made.status == 0, made.text
    with Member(site.env["FLEXI_CHAT_URL"], MAIL, json.loads(made.stdout)["password"]) as found:
        if found.must_agree():
            found.agree()
        yield found


def test_two_processes_share_what_is_stored(site: Site, person: Member) -> None:
    """Each answers some of the requests; whatever one stores, the other knows."""
    workers = root(site, "pgrep -c -u flexi-chat -f multiprocessing.spawn").strip()
    assert int(workers) == 2
    for number in range(8):
        person.write(f"message {number}", MODEL)
        assert f"message {number}" in person.written()
    tables = root(site, "cd /; runuser -u flexi-chat -- psql -XAtc 'SELECT count(*) FROM chat' flexi-chat")
    assert int(tables) == 8
    assert root(site, f"ls {DATA}").split().count("webui.db") == 0
    assert ":6379" not in root(site, "ss -Htln")
    assert root(site, "systemctl is-active flexi-chat-redis.service").strip() == "active"


def test_a_killed_database_loses_no_stored_message(site: Site, person: Member) -> None:
    person.write("before the kill", MODEL)
    before = person.written()
    with person.asking(MODEL, "Was bleibt?") as words:
        assert next(words)
        root(site, "systemctl kill -s KILL 'postgresql@*.service'")
    until(lambda: _stored(person) == before, 90, "the messages are there again")
    person.write("after the kill", MODEL)
    assert person.written() == sorted([*before, "after the kill"])


def _stored(person: Member) -> list[str] | None:
    try:
        return person.written()
    except (AssertionError, httpx.HTTPError):
        return None


def test_backup_and_restore_with_postgresql(site: Site, wide: Wide, person: Member, tmp_path: Path) -> None:
    before = person.written()
    saved = flexi("backup", str(wide.file), "--to", str(tmp_path), "--json")
    assert saved.status == 0, saved.text
    archive = json.loads(saved.stdout)["file"]
    person.write("after the backup", MODEL)
    root(site, "cd /; runuser -u flexi-chat -- psql -Xqc 'DROP TABLE chat CASCADE' flexi-chat")
    restored = flexi("restore", str(wide.file), archive, "--identity", str(wide.identity), "--yes", timeout_s=300)
    assert restored.status == 0, restored.text
    person.sign_in()
    assert person.written() == before


HOLD = "flexi-test-hold"
"""A unit that keeps the tables from being dropped. PostgreSQL notices soon when it is stopped."""
HELD = (
    "SET client_connection_check_interval = '100ms'; BEGIN; LOCK TABLE chat IN ACCESS SHARE MODE; SELECT pg_sleep(600)"
)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
KILL = """
ours=$(pgrep -f 'python -P -m flexi_chat.backup.restore')
theirs=$(for each in $ours; do pgrep -P $each; done)
kill -KILL $ours $theirs
"""


def script(site: Site, text: str) -> str:
    done = site.ssh("gateway", "sudo sh -s", stdin=f"cd /\n{text}\n", timeout_s=200)
    return done.text


def test_a_restore_that_is_killed_while_it_loads_the_database_is_undone(
    site: Site, wide: Wide, person: Member, tmp_path: Path
) -> None:
    saved = flexi("backup", str(wide.file), "--to", str(tmp_path), "--json")
    assert saved.status == 0, saved.text
    archive = Path(json.loads(saved.stdout)["file"])
    person.write("after this backup", MODEL)
    before = person.written()
    bring = ("restore", str(wide.file), str(archive), "--identity", str(wide.identity), "--yes")
    script(site, f'systemd-run -q --unit={HOLD} runuser -u flexi-chat -- psql -Xq flexi-chat -c "{HELD}"')
    try:
        with ThreadPoolExecutor(1) as pool:
            cut = pool.submit(flexi, *bring, timeout_s=300)
            asked = f'runuser -u postgres -- psql -XAtc "{WAITING}"'
            until(lambda: script(site, asked).strip() == "1", 120, "the load waits for the tables")
            script(site, KILL)
            assert cut.result().status == 1
    finally:
        script(site, f"systemctl stop {HOLD}")
    assert "Assertion failed" in script(site, "systemctl start flexi-chat")
    found = json.loads(flexi("status", str(wide.file), "--json").stdout)["chat"]
    assert (found["state"], found["last_backup"] is None) == ("restore", False)
    refused = flexi("backup", str(wide.file), "--to", str(tmp_path))
    assert refused.status == 1
    assert "a restore was cut off on this host" in refused.text
    cut_short = tmp_path / "short.tar.age"
    # More than age's first 64 KiB, which are opened before anything is done on the host; less than the whole dump.
    cut_short.write_bytes(archive.read_bytes()[:80_000])
    undone = flexi("restore", str(wide.file), str(cut_short), "--identity", str(wide.identity), "--yes", timeout_s=300)
    assert "is damaged; the chat has what it had" in undone.text
    until(lambda: _stored(person) == before, 60, "the chat has what it had")
    assert ".flexi-restore" not in script(site, "ls -A /var/lib")


def test_a_second_deploy_changes_nothing(site: Site, wide: Wide) -> None:
    dry = site.pyinfra("--dry", "--json", "--limit", "gateway", site_file=wide.file)
    assert dry.status == 0, dry.text[-3000:]
    plan = json.loads(dry.stdout)["plan"]
    assert [step["name"] for step in plan if step["hosts_with_change"]] == []


def test_a_site_file_that_hides_the_chats_is_refused(site: Site, wide: Wide, person: Member) -> None:
    before = person.written()
    hidden = flexi("deploy", str(site.file), "--limit", "gateway", "--no-wait", timeout_s=300)
    assert hidden.status == 1, hidden.text[-3000:]
    assert "the chats are in PostgreSQL on this host, and the site file wants them in SQLite" in hidden.text
    assert "deploy with `--leave-chats postgresql`" in hidden.text
    assert person.written() == before
