"""A Moodle that asks the site's models: its provider, its key, and what its plugins need.

The Moodle is `moodle_stub`, under PHP on a machine of the lab. FLEXI_MOODLE_DIR=/path/to/moodle runs what is about PHP
on a real one as well, with this computer's PHP and the database of its config.php: it makes and removes a provider
called "flexi test".
"""

from __future__ import annotations

import html
import http.client
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from lab_site import Site, another, flexi

from flexi.moodle import provider
from flexi.moodle.provider import Report
from flexi.paths import ROOT
from flexi.plan.model.moodle import MoodleAction, MoodleHostPlan, MoodlePlan
from flexi.plan.model.ssh import SshPlan

HERE = "server-b"
"""Which machine stands for Moodle's."""
PLACE = "/srv/moodle"
STUB = Path(__file__).parent / "moodle_stub"
REAL = os.environ.get("FLEXI_MOODLE_DIR")
MOODLES = [405, 500, 501, *(["real"] if REAL else [])]
MODEL, OTHER = "phi3:3.8b", "gemma:7b"
ORIGIN = "https://moodle.university.test"

Php = Callable[[str], str]
"""Runs a shell script as the web server's user, and gives its standard output."""


@pytest.fixture(scope="module")
def php(site: Site) -> Iterator[Php]:
    files = {path.name: path.read_text() for path in STUB.glob("*.php")}
    for name, text in files.items():
        assert site.ssh(HERE, f"sudo install -D /dev/stdin {PLACE}/{name}", stdin=text).status == 0

    def run(script: str) -> str:
        done = site.ssh(HERE, "sudo -n -u www-data sh -s", stdin=script)
        assert done.status == 0, done.text
        return done.stdout

    yield run
    site.ssh(HERE, f"sudo rm -rf {PLACE}")


def fresh(site: Site, **state: object) -> None:
    """A Moodle nobody has touched."""
    text = json.dumps({"branch": 501, **state})
    script = f"sudo install -o www-data -m 600 /dev/stdin {PLACE}/state.json && sudo chown www-data {PLACE}"
    assert site.ssh(HERE, script, stdin=text).status == 0


def stored(site: Site) -> dict[str, object]:
    state: dict[str, object] = json.loads(site.ssh(HERE, f"sudo cat {PLACE}/state.json").stdout)
    return state


class Moodle:
    """One Moodle, and what is wanted of it."""

    def __init__(self, php: Php, config: str, old: bool) -> None:
        self.php = php
        self.config = config
        self.old = old
        """Of 4.5: a provider is a plugin."""

    def plan(self, **changes: object) -> MoodlePlan:
        host = MoodleHostPlan(ssh=SshPlan(address="192.0.2.1", user="x"), web_user="x", php="php", config=self.config)
        plan = MoodlePlan(
            url=ORIGIN,
            name="flexi test",
            provider="openai",
            # No name that would have to be looked up.
            gateway_url="https://192.0.2.80",
            consumer="moodle",
            class_name="default",
            actions=(
                MoodleAction(name="generate_text", model=MODEL, instruction=None),
                MoodleAction(
                    name="summarise_text", model=OTHER, instruction="Kurz & „knapp“, it's $HOME `x` \\ \n2 Sätze."
                ),
            ),
            actions_named=True,
            per_user_hour=30,
            per_hour=None,
            plugins=(),
            aliases={},
            origin=ORIGIN,
            host=host,
        )
        return plan.model_copy(update=changes)

    def report(self, *, apply: bool = False, new_key: bool = False, **changes: object) -> Report:
        script = provider.script(self.plan(**changes), apply=apply, new_key=new_key)
        return provider.read(self.php(script).splitlines())

    def code(self, text: str) -> str:
        """Run PHP inside Moodle."""
        preamble = (
            f"define('CLI_SCRIPT', true); require('{self.config}'); \\core\\session\\manager::set_user(get_admin());"
        )
        lines = self.php(f"php -d display_errors=stderr <<'EOF'\n<?php {preamble} {text}\nEOF\n").strip().splitlines()
        return lines[-1] if lines else ""

    def present(self) -> Mapping[str, object]:
        """What is stored, by the names of Moodle 5."""
        if self.old:
            return dict(json.loads(self.code("echo json_encode(get_config('aiprovider_openai'));")))
        text = self.code(
            "$m = \\core\\di::get(\\core_ai\\manager::class);"
            "$found = array_values($m->get_provider_instances(['name' => 'flexi test']));"
            "echo json_encode(array_map(fn($p) => [$p::class, $p->enabled, $p->config, $p->actionconfig], $found));"
        )
        ((kind, enabled, config, actions),) = json.loads(text)
        return {"class": kind, "enabled": bool(enabled), "actions": actions, **config}

    def forget(self) -> None:
        self.code(
            "$m = \\core\\di::get(\\core_ai\\manager::class);"
            "foreach ($m->get_provider_instances(['name' => 'flexi test']) as $p) $m->delete_provider_instance($p);"
        )


@pytest.fixture(params=MOODLES)
def moodle(request: pytest.FixtureRequest, site: Site, php: Php) -> Iterator[Moodle]:
    if request.param != "real":
        fresh(site, branch=request.param)
        yield Moodle(php, f"{PLACE}/config.php", request.param == 405)
        if request.param >= 500:
            # As the database would be: nothing of ours is left where the test above failed half-way.
            fresh(site)
        return

    def here(script: str) -> str:
        return subprocess.run(
            ["sh", "-s"], input=script, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    real = Moodle(here, f"{REAL}/config.php", old=False)
    yield real
    real.forget()


def test_what_is_wanted_is_made_once_and_kept(moodle: Moodle) -> None:
    foretold = moodle.report()
    assert foretold.problems == ()
    assert foretold.key_sha256 is None
    done = moodle.report(apply=True)
    assert done.changes == foretold.changes != ()
    assert "make a key" in done.changes
    again = moodle.report(apply=True)
    assert (again.changes, again.problems) == ((), ())
    assert again.key_sha256 == done.key_sha256 is not None
    found = moodle.present()
    assert len(str(found["apikey"])) > 40
    if moodle.old:
        assert found["enabled"] == "1"
        assert found["generate_image"] == "0"
        assert found["action_summarise_text_model"] == OTHER
        assert found["action_summarise_text_endpoint"] == "https://192.0.2.80/v1/chat/completions"
        instruction, default = (
            found["action_summarise_text_systeminstruction"],
            "action_generate_text_systeminstruction",
        )
        assert found[default]
    else:
        assert found["enabled"] is True
        actions = found["actions"]
        assert isinstance(actions, dict)
        by_name = {name.rpartition("\\")[2]: action for name, action in actions.items()}
        assert {name for name, action in by_name.items() if action["enabled"]} == {"generate_text", "summarise_text"}
        assert by_name["summarise_text"]["settings"]["model"] == OTHER
        instruction = by_name["summarise_text"]["settings"]["systeminstruction"]
        assert by_name["generate_text"]["settings"]["systeminstruction"]
    assert instruction == "Kurz & „knapp“, it's $HOME `x` \\ \n2 Sätze."
    assert str(found["userratelimit"]) == "30"


def test_drift_is_named_and_mended(moodle: Moodle) -> None:
    key = moodle.report(apply=True).key_sha256
    if moodle.old:
        moodle.code(
            "$t = $DB->start_delegated_transaction();"
            "set_config('action_generate_text_model', 'x', 'aiprovider_openai');"
            "set_config('action_generate_text_systeminstruction', 'mine', 'aiprovider_openai'); $t->allow_commit();"
        )
        expected = ("set action_generate_text_model of aiprovider_openai",)
    else:
        moodle.code(
            "$t = $DB->start_delegated_transaction(); $m = \\core\\di::get(\\core_ai\\manager::class);"
            "$p = current($m->get_provider_instances(['name' => 'flexi test'])); $a = $p->actionconfig;"
            "$a['core_ai\\aiactions\\generate_text']['settings']['model'] = 'x';"
            "$a['core_ai\\aiactions\\generate_text']['settings']['systeminstruction'] = 'mine';"
            "$m->disable_provider_instance($m->update_provider_instance(provider: $p, actionconfig: $a));"
            "$t->allow_commit();"
        )
        expected = ("set model of generate_text", "enable provider flexi test")
    assert moodle.report(apply=True).changes == expected
    again = moodle.report()
    assert again.changes == ()
    assert again.key_sha256 == key
    # What the site file says nothing about is Moodle's admin's.
    assert "mine" in json.dumps(moodle.present())


def test_another_key(moodle: Moodle) -> None:
    first = moodle.report(apply=True).key_sha256
    assert moodle.report(new_key=True).changes == ("make a key",)
    second = moodle.report(apply=True, new_key=True)
    assert second.changes == ("make a key",)
    assert second.key_sha256 not in (first, None)


def test_the_other_provider_takes_its_place(moodle: Moodle) -> None:
    moodle.report(apply=True)
    if moodle.old:
        (problem,) = moodle.report(apply=True, provider="ollama").problems
        assert "5.0" in problem
        return
    done = moodle.report(apply=True, provider="ollama")
    assert any(change.startswith("remove the other provider") for change in done.changes)
    assert moodle.report(provider="ollama").changes == ()
    found = moodle.present()
    assert found["class"] == "aiprovider_ollama\\provider"
    assert found["basicauthenabled"] == found["enablebasicauth"] == 1
    assert (found["username"], found["endpoint"]) == ("moodle", "https://192.0.2.80")


def test_moodles_own_protection_of_its_network_is_respected(moodle: Moodle) -> None:
    refused = moodle.report(apply=True, gateway_url="https://192.0.2.80:8443")
    assert "curlsecurityallowedport" in refused.problems[0]
    assert refused.changes == ()
    assert "make a key" in moodle.report().changes


def test_a_moodle_that_is_not_there(php: Php) -> None:
    (problem,) = Moodle(php, "/nowhere/config.php", old=False).report().problems
    assert problem.startswith("/nowhere/config.php is not there")


# Questions


def made(site: Site, folder: Path) -> tuple[dict[str, object], Path]:
    """`flexi questions` through the gateway: what it printed, and its file."""
    key, target = folder / "key", folder / "made.xml"
    key.touch(mode=0o600)
    key.write_text(site.key)
    text = ROOT / "inventory/lab/courses/statistik-1/material/einheit-1-lage.md"
    options = ["--count", "2", "--model", MODEL, "--url", site.url, "--key-file", str(key), "--to", str(target)]
    done = flexi("questions", str(text), *options, "--json")
    assert done.status == 0, done.text
    report: dict[str, object] = json.loads(done.stdout)
    return report, target


def test_questions_are_made_through_the_gateway(site: Site, tmp_path: Path) -> None:
    report, target = made(site, tmp_path)
    assert report["made"] == 2
    assert target.exists()


@pytest.mark.skipif(not REAL, reason="FLEXI_MOODLE_DIR names no Moodle")
def test_moodle_reads_the_questions(site: Site, tmp_path: Path) -> None:
    report, target = made(site, tmp_path)
    code = f"""<?php define('CLI_SCRIPT', true); require('{REAL}/config.php');
        require_once($CFG->libdir . '/questionlib.php');
        require_once($CFG->dirroot . '/question/format.php');
        require_once($CFG->dirroot . '/question/format/xml/format.php');
        echo json_encode((new qformat_xml())->readquestions(file('{target}')));"""
    done = subprocess.run(["php"], input=code, capture_output=True, text=True, check=True, timeout=120)
    head, *read = json.loads(done.stdout.strip().splitlines()[-1])
    assert (head["qtype"], head["idnumber"]) == ("category", "einheit-1-lage")
    questions = report["questions"]
    assert isinstance(questions, list)
    assert [one["idnumber"] for one in read] == [one["idnumber"] for one in questions]
    for one, question in zip(read, questions, strict=True):
        assert (one["qtype"], one["single"], one["fraction"]) == ("multichoice", 1, [1, 0, 0, 0])
        assert html.unescape(one["answer"][0]["text"]) == f"<p>{question['right']}</p>"


# The whole way


@pytest.fixture(scope="module")
def with_moodle(site: Site, php: Php) -> Iterator[Path]:
    """A site file with a Moodle, and a gateway that knows it."""
    address = next(host.ssh.address for host in site.plan.hosts if host.name == HERE)
    section = {
        "url": f"{ORIGIN}/lms",
        "model": MODEL,
        "plugins": ["local_ai_manager", "mod_openchat"],
        "ssh": {"address": address, "config": f"{PLACE}/config.php"},
    }
    path = another(site, f"{site.file.read_text()}\nmoodle: {json.dumps(section)}\n", "moodle")
    done = site.pyinfra("-y", "--limit", "gateway", site_file=path)
    assert done.status == 0, done.text[-3000:]
    yield path
    back = site.pyinfra("-y", "--limit", "gateway")
    assert back.status == 0, back.text[-3000:]


def asked(site: Site, key: str | None, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
    url = urlsplit(site.url)
    assert url.hostname
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=60)
    sent = {**headers, **({"Authorization": f"Bearer {key}"} if key else {})}
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, sent)
    return connection.getresponse()


def key_in_moodle(site: Site) -> str:
    """What Moodle would send."""
    providers = stored(site)["providers"]
    assert isinstance(providers, dict)
    (row,) = providers.values()
    key: str = json.loads(row["config"])["apikey"]
    return key


def chats(site: Site, key: str, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    return asked(site, key, "/v1/chat/completions", body).status


def test_moodle_asks_with_a_key_that_nobody_saw(site: Site, with_moodle: Path) -> None:
    fresh(site)
    dry = flexi("moodle", "deploy", str(with_moodle), "--dry")
    assert dry.status == 0, dry.text
    assert not stored(site).get("providers")
    done = flexi("moodle", "deploy", str(with_moodle))
    assert done.status == 0, done.text
    key = key_in_moodle(site)
    assert key not in done.text + with_moodle.with_suffix(".keys.json").read_text()
    assert chats(site, key, MODEL) == 200
    # An alias that local_ai_manager's fixed list has, and the pages of mod_openchat without a key.
    assert chats(site, key, "gpt-4o") == 200
    tags = asked(site, None, "/api/tags", Origin=ORIGIN)
    assert (tags.status, tags.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)

    again = flexi("moodle", "deploy", str(with_moodle))
    assert again.status == 0, again.text
    assert key_in_moodle(site) == key
    dry = site.pyinfra("--dry", "--json", site_file=with_moodle, script="moodle.py")
    (step,) = json.loads(dry.stdout)["plan"]
    assert (step["name"].rpartition(" | ")[2], step["hosts_with_change"]) == ("Set up the provider FLEXI in Moodle", [])

    renewed = flexi("moodle", "deploy", str(with_moodle), "--new-key")
    assert renewed.status == 0, renewed.text
    new = key_in_moodle(site)
    assert new != key
    # The one before stays good for what is under way.
    assert (chats(site, new, MODEL), chats(site, key, MODEL)) == (200, 200)
    listed = json.loads(flexi("keys", "list", str(with_moodle), "--json").stdout)["consumers"]
    assert [one["name"] for one in listed].count("moodle") == 1


def test_what_moodle_refuses_is_said_and_nothing_is_done(site: Site, with_moodle: Path) -> None:
    keys = with_moodle.with_suffix(".keys.json").read_text()
    fresh(site, blocked=["flexi.lab.test"])
    done = flexi("moodle", "deploy", str(with_moodle))
    assert done.status == 1
    assert "curlsecurityblockedhosts" in done.text
    assert "Traceback" not in done.text
    assert not stored(site).get("providers")
    assert with_moodle.with_suffix(".keys.json").read_text() == keys
