"""Consumers' keys: shown once, kept as digests, nothing lost, and what the gateways are told."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.site_text import GOOD

from flexi.cli import keys
from flexi.configs.gateway import keys_map
from flexi.errors import FlexiError, InputError
from flexi.keys import gateways
from flexi.keys.gateways import Told
from flexi.keys.store import KeysStore
from flexi.keys.times import End, Span, until
from flexi.paths import ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import Site, SiteError, load_site
from flexi.site.consumers import Consumer, Grant
from flexi.site.keys import keys_path
from flexi.ssh import remote

NOW = datetime(2026, 11, 23, 12, 0, 0, 987654, tzinfo=UTC)
CLASSES = "  classes: {staff: {at_once: 2}}\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    path = tmp_path / "uni.yaml"
    path.write_text(GOOD + CLASSES)
    return load_site(path)


def file_of(site: Site) -> Path:
    return keys_path(site.path)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_only_the_digest_is_written(site: Site) -> None:
    with KeysStore(site) as store:
        key = store.add("moodle")
    written = file_of(site).read_text()
    assert key not in written
    assert json.loads(written)["consumers"][0]["sha256"] == digest(key)
    assert file_of(site).stat().st_mode & 0o077 == 0


def test_all_that_is_said_of_a_consumer_is_kept(site: Site) -> None:
    with KeysStore(site, NOW) as store:
        key = store.add("moodle", "staff", owner="Ada", purpose="Kurs 01613 «Ü»", expires=NOW + timedelta(days=1))
    assert json.loads(file_of(site).read_text()) == {
        "consumers": [
            {
                "name": "moodle",
                "class": "staff",
                "owner": "Ada",
                "purpose": "Kurs 01613 «Ü»",
                "created": "2026-11-23T12:00:00+00:00",
                "expires": "2026-11-24T12:00:00+00:00",
                "sha256": digest(key),
            }
        ]
    }
    assert [consumer.name for consumer in load_site(site.path).consumers] == ["moodle"]


def test_keys_differ_and_add_up(site: Site) -> None:
    made = set()
    for name in ("ada", "grace", "edsger"):
        with KeysStore(site) as store:
            made.add(store.add(name))
    assert len(made) == 3
    assert [entry.name for entry in load_site(site.path).entries] == ["ada", "grace", "edsger"]


@pytest.mark.parametrize("name", ["", "Ada", "a b", "-x", "a\nb", "ä", "x" * 64, "a:b", "flexi-health"])
def test_a_name_that_a_log_or_map_could_not_carry_is_refused(site: Site, name: str) -> None:
    with KeysStore(site) as store, pytest.raises(InputError, match="name"):
        store.add(name)
    assert not file_of(site).exists()


def test_a_taken_name_is_refused_and_nothing_changes(site: Site) -> None:
    with KeysStore(site) as store:
        store.add("ada")
        before = file_of(site).read_bytes()
        with pytest.raises(InputError, match="already"):
            store.add("ada")
    assert file_of(site).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda store: store.add("ada", "staf"), "did you mean 'staff'"),
        (lambda store: store.add("ada", owner="two\nlines"), "owner: .* is no line of text"),
        (lambda store: store.add("ada", expires=NOW), "has passed"),
        (lambda store: store.rotate("mudle"), "did you mean 'moodle'"),
        (lambda store: store.rotate("moodle", expires=NOW - timedelta(days=1)), "has passed"),
        (lambda store: store.revoke(["moodle", "xyz"]), "no consumer 'xyz'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(
    site: Site, change: Callable[[KeysStore], object], words: str
) -> None:
    with KeysStore(site, NOW) as store:
        store.add("moodle")
        before = file_of(site).read_bytes()
        with pytest.raises(InputError, match=words):
            change(store)
    assert file_of(site).read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"consumers": [1]}', '{"consumers": null}'])
def test_a_broken_file_is_left_alone(site: Site, content: str) -> None:
    file_of(site).write_text(content)
    with pytest.raises(SiteError, match=r"uni\.keys\.json:1"), KeysStore(site) as store:
        store.add("ada")
    assert file_of(site).read_text() == content
    assert sorted(path.name for path in site.path.parent.iterdir()) == ["uni.keys.json", "uni.yaml"]


def test_an_interrupted_write_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with KeysStore(site) as store:
        store.add("ada")
    before = file_of(site).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with KeysStore(site) as store, pytest.raises(FlexiError, match="No space left"):
        store.add("grace")
    assert file_of(site).read_bytes() == before
    assert sorted(path.name for path in site.path.parent.iterdir()) == ["uni.keys.json", "uni.yaml"]


def test_a_link_to_the_keys_file_stays_one(site: Site, tmp_path: Path) -> None:
    """A site may keep it elsewhere, under version control."""
    (tmp_path / "repository").mkdir()
    file_of(site).symlink_to("repository/keys.json")
    with KeysStore(site) as store:
        store.add("ada")
    assert file_of(site).is_symlink()
    assert "ada" in (tmp_path / "repository/keys.json").read_text()


def test_two_who_add_at_the_same_time_lose_nothing(site: Site) -> None:
    """Each has read the file before the other has written it, unless one waits."""
    script = (
        "import sys; from pathlib import Path\n"
        "from flexi.site import load_site; from flexi.keys.store import KeysStore\n"
        "site = load_site(Path(sys.argv[1]))\n"
        "for number in range(15):\n"
        "    with KeysStore(site) as store: store.add(f'{sys.argv[2]}{number}')\n"
    )
    argv = [sys.executable, "-c", script, str(site.path)]
    both = [subprocess.Popen([*argv, name], cwd=ROOT) for name in ("a", "b")]
    assert [process.wait(30) for process in both] == [0, 0]
    assert len(load_site(site.path).entries) == 30


def test_a_rotated_key_is_another_and_the_old_one_ends(site: Site) -> None:
    with KeysStore(site, NOW) as store:
        old = store.add("moodle", "staff", owner="Ada")
        new = store.rotate("moodle")
    (entry,) = load_site(site.path).entries
    assert (entry.sha256, entry.previous, entry.owner, entry.class_name) == (digest(new), None, "Ada", "staff")
    assert new != old


def test_the_old_key_may_be_kept_for_a_while(site: Site) -> None:
    with KeysStore(site, NOW) as store:
        old = store.add("moodle")
        new = store.rotate("moodle", keep_old=timedelta(days=7))
    (consumer,) = load_site(site.path).consumers
    end = int(NOW.timestamp()) + 7 * 86400
    assert consumer.grants == (Grant(sha256=digest(new)), Grant(sha256=digest(old), expires=end))
    with KeysStore(site, NOW + timedelta(days=8)) as store:
        store.add("other")
    assert len(load_site(site.path).consumers[0].grants) == 1, "what has ended is cleared away"


def test_an_old_key_is_not_kept_beyond_its_end(site: Site) -> None:
    end = NOW.replace(microsecond=0) + timedelta(days=2)
    with KeysStore(site, NOW) as store:
        store.add("moodle", expires=end)
        store.rotate("moodle", keep_old=timedelta(days=7), expires=end + timedelta(days=300))
    (entry,) = load_site(site.path).entries
    assert entry.previous is not None
    assert datetime.fromisoformat(entry.previous.expires) == end
    assert entry.expires == (end + timedelta(days=300)).isoformat()


def test_rotating_a_key_that_has_ended_needs_a_new_end(site: Site) -> None:
    with KeysStore(site, NOW) as store:
        store.add("moodle", expires=NOW + timedelta(days=1))
    with KeysStore(site, NOW + timedelta(days=2)) as store:
        with pytest.raises(InputError, match="--expires"):
            store.rotate("moodle")
        store.rotate("moodle", expires=NOW + timedelta(days=30))


def test_revoked_consumers_are_gone_and_the_others_stay(site: Site) -> None:
    with KeysStore(site) as store:
        for name in ("ada", "grace", "edsger"):
            store.add(name)
        store.revoke(["ada", "edsger"])
    assert [entry.name for entry in load_site(site.path).entries] == ["grace"]


@pytest.mark.parametrize(
    ("text", "end"),
    [("2027-03-31", datetime(2027, 4, 1, tzinfo=UTC)), ("2028-02-29", datetime(2028, 3, 1, tzinfo=UTC))],
)
def test_a_last_day_is_good_to_its_end(text: str, end: datetime) -> None:
    assert End().convert(text, None, None) == end
    assert until(end.isoformat(), NOW).startswith(text)


@pytest.mark.parametrize("text", ["2027-02-29", "31.3.2027", "90", "d", "0d", "-1d", "9999999w", "1999-01-01", "90 d"])
def test_what_is_no_end_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"write e\.g\."):
        End().convert(text, None, None)


def test_spans() -> None:
    lengths = [Span().convert(text, None, None) for text in ("30m", "12h", "7d", "2w")]
    assert lengths == [timedelta(minutes=30), timedelta(hours=12), timedelta(days=7), timedelta(days=14)]


TWO = (
    Consumer(
        name="ada", class_name="staff", grants=(Grant(sha256="a" * 64), Grant(sha256="b" * 64, expires=1806530400))
    ),
    Consumer(name="moodle", class_name="default", grants=(Grant(sha256="c" * 64),)),
)


def test_the_gateway_knows_digests_classes_and_ends() -> None:
    lines = [line for line in keys_map(TWO).splitlines() if not line.startswith("#")]
    assert lines == [f"{'a' * 64} ada:staff", f"{'b' * 64} ada:staff:1806530400", f"{'c' * 64} moodle:default"]


@pytest.mark.parametrize(
    ("answer", "known", "words"),
    [
        (remote.Answer(0, "", ""), True, None),
        (remote.Answer(255, "", "ssh: connect to host x port 22: No route to host"), False, "No route to host"),
        (remote.Answer(3, "", ""), False, None),
        (remote.Answer(4, "", ""), False, "cut"),
        (remote.Answer(1, "", "Warning\nflexi_host: HAProxy did not take it"), False, "did not take it"),
    ],
)
def test_what_becomes_of_a_gateway(
    site: Site, monkeypatch: pytest.MonkeyPatch, answer: remote.Answer, known: bool, words: str | None
) -> None:
    asked = []

    def run(host: object, command: str, timeout_s: float, stdin: str) -> remote.Answer:
        asked.append((command, stdin))
        return answer

    monkeypatch.setattr(remote, "run", run)
    (told,) = gateways.tell(build_plan(site), TWO)
    assert told.known is known
    assert (told.problem is None) if words is None else words in (told.problem or "")
    ((command, stdin),) = asked
    assert stdin == keys_map(TWO)
    assert "a" * 64 not in command, "arguments are for everyone on the host to read"


def script(site: Site, tmp_path: Path, text: str, follow: str) -> subprocess.CompletedProcess[str]:
    """Run what the gateway is told in a directory of the test's own, as whoever runs the tests."""
    (tmp_path / "etc").mkdir(exist_ok=True)
    command = gateways._command(keys_map(TWO))
    inner = command.removeprefix("sudo -n ")
    for there, here in (
        ("/etc/haproxy/flexi", str(tmp_path / "etc")),
        ("/var/lib/flexi", str(tmp_path / "var")),
        ("chown root:haproxy", "true"),
        ("python3 /opt/flexi/flexi-agent.pyz", follow),
    ):
        assert there in inner
        inner = inner.replace(there, here)
    return subprocess.run(["sh", "-c", inner], input=text, capture_output=True, text=True, check=False)


def test_on_the_gateway_the_file_is_replaced_and_haproxy_told(site: Site, tmp_path: Path) -> None:
    map_file = tmp_path / "etc/keys.map"
    assert script(site, tmp_path, keys_map(TWO), "false").returncode == 3, "a host that is no gateway yet"
    map_file.write_text("old\n")
    done = script(site, tmp_path, keys_map(TWO), f"touch {tmp_path}/told; :")
    assert done.returncode == 0, done.stderr
    assert map_file.read_text() == keys_map(TWO)
    assert map_file.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "told").exists()
    assert list((tmp_path / "var").rglob("flexi-keys")), "the next deploy has nothing to tell"


def test_a_transfer_that_was_cut_revokes_nothing(site: Site, tmp_path: Path) -> None:
    map_file = tmp_path / "etc/keys.map"
    map_file.parent.mkdir()
    map_file.write_text("old\n")
    assert script(site, tmp_path, keys_map(TWO)[:-40], "false").returncode == 4
    assert map_file.read_text() == "old\n"
    assert [path.name for path in map_file.parent.iterdir()] == ["keys.map"]


def test_what_haproxy_did_not_take_is_told_again_by_the_next_deploy(site: Site, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/keys.map").write_text("old\n")
    assert script(site, tmp_path, keys_map(TWO), "false").returncode == 1
    assert not list(tmp_path.rglob("flexi-keys"))


def flexi(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `flexi keys`."""
    done = CliRunner().invoke(keys.keys, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit | InputError | SiteError), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Consumer, ...]]:
    """What the gateway was told, which then knows it."""
    heard: list[tuple[Consumer, ...]] = []

    def tell(plan: Plan, consumers: tuple[Consumer, ...]) -> list[Told]:
        heard.append(consumers)
        return [Told(plan.gateway.host, known=True)]

    monkeypatch.setattr(keys, "tell", tell)
    return heard


def test_add_prints_the_key_alone_on_standard_output(site: Site, told: list[tuple[Consumer, ...]]) -> None:
    status, out, err = flexi("add", str(site.path), "moodle", "--class", "staff", "--expires", "2030-01-31")
    assert status == 0
    (entry,) = load_site(site.path).entries
    assert digest(out.strip()) == entry.sha256
    assert out.strip() not in err
    assert entry.expires == "2030-02-01T00:00:00+00:00"
    assert told == [load_site(site.path).consumers]


def test_add_for_programs(site: Site, told: list[tuple[Consumer, ...]]) -> None:
    status, out, _ = flexi("add", str(site.path), "moodle", "--json")
    report = json.loads(out)
    (entry,) = load_site(site.path).entries
    assert (status, report["schema"], report["name"], digest(report["key"])) == (0, 1, "moodle", entry.sha256)
    assert report["gateways"] == [{"host": "two", "known": True, "problem": None}]


@pytest.mark.parametrize("command", ["add", "rotate", "revoke"])
def test_a_gateway_that_does_not_answer_is_said_and_the_file_is_right(
    site: Site, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    with KeysStore(site) as store:
        store.add("old")
    before = load_site(site.path).entries
    monkeypatch.setattr(keys, "tell", lambda *_: [Told("two", known=False, problem="no route to host")])
    status, out, err = flexi(command, str(site.path), "new" if command == "add" else "old")
    assert status == 1
    assert "two does not know it yet: no route to host" in err
    assert out
    assert load_site(site.path).entries != before


def test_a_site_that_was_never_deployed_gets_its_keys_with_the_first_deploy(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "tell", lambda *_: [Told("two", known=False)])
    status, _, err = flexi("add", str(site.path), "moodle")
    assert status == 0
    assert "the first deploy tells it" in err


def test_here_tells_nobody(site: Site, told: list[tuple[Consumer, ...]]) -> None:
    assert flexi("add", str(site.path), "moodle", "--here")[0] == 0
    assert told == []


def test_list_and_show_hold_what_an_admin_asks_and_no_digest(site: Site, told: list[tuple[Consumer, ...]]) -> None:
    flexi("add", str(site.path), "moodle", "--class", "staff", "--owner", "Ada", "--purpose", "course [1]")
    flexi("rotate", str(site.path), "moodle", "--keep-old", "7d")
    (entry,) = load_site(site.path).entries
    assert entry.previous is not None
    for arguments in (["list"], ["list", "--json"], ["show"], ["show", "--json"]):
        name = ["moodle"] if arguments[0] == "show" else []
        status, out, _ = flexi(arguments[0], str(site.path), *name, *arguments[1:])
        assert status == 0
        assert all(word in out for word in ("moodle", "staff", "Ada", "course [1]"))
        assert entry.sha256 not in out
        assert entry.previous.sha256 not in out
    report = json.loads(flexi("show", str(site.path), "moodle", "--json")[1])
    assert report["rules"]["at_once"] == 2
    assert report["previous_expires"] == entry.previous.expires
    assert report["ended"] is False


def test_revoke_takes_several(site: Site, told: list[tuple[Consumer, ...]]) -> None:
    for name in ("ada", "grace", "edsger"):
        flexi("add", str(site.path), name)
    assert flexi("revoke", str(site.path), "ada", "grace")[0] == 0
    assert [consumer.name for consumer in told[-1]] == ["edsger"]
