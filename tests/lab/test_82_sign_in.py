"""Who comes into the chat, and what must be done before a model hears of them."""

from __future__ import annotations

import json
import re
import shlex
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from chat_person import AGREEMENT
from lab_site import Figure, Site, another, failures_of, flexi
from sign_in_parts import BASE, LDAP_NAME, OIDC_PORT, READER, READERS_PASSWORD, Directory, provider

from flexi.lab.topology import SERVICES_ADDRESS

pytestmark = pytest.mark.usefixtures("site")

MODEL = "phi3:3.8b"
BOT = "course-night-sky"
"""Its group, below, has nobody in it until a directory says so."""
GROUP = "night-sky-2026"
NEW = f"2027-{uuid.uuid4().hex[:6]}"
"""Another version of the agreement, also in a lab that these tests have seen before."""
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": False}
MODELS = (
    ("POST", "/api/chat/completions"),
    ("POST", "/api/v1/chat/completions"),
    ("POST", "/api/message"),
    ("POST", "/api/v1/messages"),
    ("POST", "/api/embeddings"),
    ("POST", "/api/v1/embeddings"),
    ("POST", "/api/v1/tasks/title/completions"),
    ("POST", "/api/v1/tasks/queries/completions"),
    ("POST", "/api/v1/retrieval/process/text"),
    ("POST", "/api/v1/files/"),
    ("POST", "/api/v1/chats/new"),
    ("POST", "/ollama/api/chat"),
    ("POST", "/ollama/api/chat/0"),
    ("POST", "/ollama/api/generate"),
    ("POST", "/ollama/api/embed"),
    ("POST", "/ollama/api/embeddings"),
    ("POST", "/ollama/v1/chat/completions"),
    ("POST", "/ollama/v1/completions"),
    ("POST", "/ollama/v1/messages"),
    ("POST", "/ollama/v1/responses"),
    ("POST", "/openai/chat/completions"),
    ("GET", "/ollama/api/tags"),
    ("GET", "/ollama/v1/models"),
    ("GET", "/api/models"),
    ("GET", "/api/v1/models"),
)
"""Ways to a model, or to what is said about them, in Open WebUI 0.12.4 (main.py, routers)."""


def spellings(path: str) -> list[str]:
    """Ways to write a path that somebody might take for the same."""
    odd = [path, f"/{path}", f"{path}/", path.upper(), path.replace("/", "//"), path.replace("/api", "/%61pi")]
    return [*odd, f"/static/..{path}", f"/static/%2e%2e{path}", f"/ws/..{path}", f"/.{path}", f"{path};x", f"{path}%00"]


class Person:
    """A browser of somebody's: cookies, and a token once signed in."""

    def __init__(self, site: Site) -> None:
        self.url = site.env["FLEXI_CHAT_URL"]
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def signed_in(self, path: str, body: Mapping[str, str], **headers: str) -> httpx.Response:
        answer = self.http.post(
            path,
            json=dict(body),
            headers={name.replace("_", "-"): value.encode() for name, value in headers.items()},
        )
        if answer.status_code == 200:
            self.http.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        return answer

    def must_agree(self) -> bool:
        answer = self.http.get("/api/models")
        if answer.status_code == 403:
            assert answer.headers["x-flexi-agreement"], answer.text
        return answer.status_code == 403

    def agree(self, **changes: str) -> httpx.Response:
        page = self.http.get(AGREEMENT)
        assert page.status_code == 200, page.headers
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
        return self.http.post(AGREEMENT, data=form | changes)

    def models(self) -> set[str]:
        answer = self.http.get("/api/models")
        assert answer.status_code == 200, answer.text
        return {model["id"] for model in answer.json()["data"]}


def by_password(site: Site, mail: str, password: str) -> Person:
    person = Person(site)
    answer = person.signed_in("/api/v1/auths/signin", {"email": mail, "password": password})
    assert answer.status_code == 200, answer.text
    return person


def asked(site: Site) -> int:
    """Requests of the chat that the gateway's ledger has written down."""
    usage = json.loads(flexi("usage", str(site.file), "--by", "consumer", "--json").stdout)
    return sum(row["requests"] for row in usage["rows"] if row["consumer"] == "flexi-chat")


@pytest.fixture
def account(site: Site) -> Iterator[tuple[str, str]]:
    """A new account of the chat's own: mail address and password."""
    mail = "ada@flexi.lab.test"
    made = flexi("accounts", "add", str(site.file), mail, "--name", "Ada Lovelace", "--json")
    assert made.status == 0, made.text
    yield mail, json.loads(made.stdout)["password"]
    flexi("accounts", "remove", str(site.file), mail, "--yes")


def test_no_model_hears_of_who_has_not_accepted(site: Site, account: tuple[str, str], figure: Figure) -> None:
    person = by_password(site, *account)
    token = person.http.headers["Authorization"].removeprefix("Bearer ")
    places: list[dict[str, str]] = [
        {"Authorization": f"Bearer {token}"},
        {"Authorization": f"bearer {token}"},
        {"Authorization": f"Basic {token}"},
        {"Cookie": f"token={token}"},
        {"x-api-key": token},
        {},
    ]
    before, tried = asked(site), 0
    with httpx.Client(timeout=60, trust_env=False) as http:
        for method, path in MODELS:
            for index, spelling in enumerate(spellings(path)):
                for headers in places if index == 0 else places[:1]:
                    url = httpx.URL(person.url).copy_with(raw_path=spelling.encode())
                    answer = http.request(method, url, json=QUESTION if method == "POST" else None, headers=headers)
                    tried += 1
                    if index == 0:
                        assert answer.status_code == (403 if headers and "x-api-key" not in headers else 401) or (
                            "Basic" in str(headers) or "x-api-key" in headers
                        ), (path, headers, answer.status_code, answer.text)
                    assert answer.status_code != 200 or "html" in answer.headers["content-type"], (
                        spelling,
                        answer.text,
                    )
    assert asked(site) == before, "something reached the gateway"
    figure(f"{tried} requests of somebody who has not accepted: none reached a model")

    # The same counter, once the same person has accepted.
    since = datetime.now(UTC) - timedelta(seconds=2)
    assert person.agree(language="xx").headers["location"] == AGREEMENT
    assert person.must_agree()
    assert person.agree().status_code == 303
    answer = person.http.post("/api/chat/completions", json=QUESTION)
    assert answer.status_code == 200, answer.text
    assert asked(site) > before

    (record,) = [row for row in agreements(site) if row["mail"] == account[0]]
    assert record["version"] == "2026-10"
    assert since <= datetime.fromisoformat(record["accepted_at"]) <= datetime.now(UTC)


def agreements(site: Site) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(flexi("agreements", str(site.file), "--json").stdout)["agreements"]
    return rows


def test_the_internal_account_is_good_on_its_own_host_only(site: Site) -> None:
    secret = site.ssh("gateway", "sudo sed -n 's/^WEBUI_ADMIN_PASSWORD=//p' /etc/flexi/chat-secrets.env").stdout.strip()
    person = by_password(site, "flexi@localhost", secret)
    assert "own host only" in person.http.get("/api/v1/users/").text
    assert person.http.get(AGREEMENT).headers["location"] == "/auth"


def test_old_chats_go_and_an_account_goes_with_all_its_files(site: Site, account: tuple[str, str]) -> None:
    person = by_password(site, *account)
    person.agree()
    uploaded = person.http.post("/api/v1/files/?process=false", files={"file": ("note.txt", b"Kanarienvogel")}).json()
    told = []
    for title in ("old", "new"):
        history = {"currentId": "m", "messages": {"m": {"id": "m", "role": "user", "content": f"Zeisig {title}"}}}
        body = {"chat": {"title": title, "models": [MODEL], "history": history, "messages": []}}
        told.append(person.http.post("/api/v1/chats/new", json=body).json()["id"])
    database = "/var/lib/flexi-chat/webui.db"
    aged = f"UPDATE chat SET updated_at = updated_at - 400 * 86400 WHERE id = '{told[0]}'"
    script = f"import sqlite3; c = sqlite3.connect('{database}'); c.execute(\"{aged}\"); c.commit()"
    assert site.ssh("gateway", f"sudo -u flexi-chat python3 -c {shlex.quote(script)}").status == 0
    assert site.ssh("gateway", "sudo systemctl start flexi-chat-cleaning", timeout_s=120).status == 0
    said = site.ssh("gateway", "sudo journalctl -qu flexi-chat-cleaning -o cat").stdout
    assert re.findall(r'^{"chats": (\d+)', said, re.MULTILINE)[-1] == "1", said
    assert [chat["id"] for chat in person.http.get("/api/v1/chats/").json()] == [told[1]]
    assert site.ssh("gateway", f"sudo grep -c 'Zeisig old' {database} {database}-wal").stdout.count(":0") == 2

    assert site.ssh("gateway", "sudo find /var/lib/flexi-chat/uploads -name '*note.txt' | grep .").status == 0
    gone = flexi("accounts", "remove", str(site.file), account[0], "--yes", "--json")
    assert json.loads(gone.stdout) == {"schema": 1, "removed": account[0], "files": 1}, gone.text
    assert site.ssh("gateway", f"sudo find /var/lib/flexi-chat/uploads -name '*{uploaded['id']}*'").stdout == ""
    assert account[0] not in [row["mail"] for row in agreements(site)]
    assert person.http.get("/api/models").status_code == 401


APACHE = """\
# What mod_shib would do, here by a header of the test's own.
SetEnvIf X-Session "^([^|]*)\\|([^|]*)\\|([^|]*)$" mail=$1 displayName=$2 isMemberOf=$3
<Location /api/v1/auths/signin>
  Require env mail
</Location>
"""


@pytest.fixture(scope="module")
def people(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    """The chat with a directory, a provider and an Apache in front, and another version of the agreement."""
    directory = Directory(site.lab, tmp_path_factory.mktemp("ldap"))
    claims = [
        {"sub": "erin", "email": "erin@lab.test", "name": "Erin Öz", "groups": [GROUP, "sports"]},
        {"sub": "eve", "email": "flexi@localhost", "name": "Eve", "groups": []},
    ]
    here = site.file.parent
    (here / "ldap.pem").write_bytes(directory.certificate.read_bytes())
    (here / "apache.conf").write_text(APACHE)
    (here / "ldap.secret").write_text(f"{READERS_PASSWORD}\n")
    text = (
        site.file.read_text().replace('version: "2026-10"', f'version: "{NEW}"')
        + f"""
  sign_in:
    local: false
    ldap:
      host: {LDAP_NAME}
      ca: ldap.pem
      bind_dn: {READER}
      bind_password: {{file: ldap.secret}}
      base: {BASE}
      groups: seeAlso
    oidc:
      discovery: http://{SERVICES_ADDRESS}:{OIDC_PORT}/.well-known/openid-configuration
      client_id: flexi-chat
      client_secret: {{command: echo s3cret}}
      groups: groups
    trusted_headers: {{apache: apache.conf, groups: isMemberOf}}
"""
    )
    assert NEW in text
    file = another(site, text, "sign-in")
    name = f"{SERVICES_ADDRESS} {LDAP_NAME}"
    try:
        directory.serve({"ben": [GROUP], "cara": []})
        with provider(site.lab, claims, here / "oidc.log"):
            assert site.ssh("gateway", f"echo {name} | sudo tee -a /etc/hosts").status == 0
            done = site.pyinfra("-y", "--limit", "gateway", site_file=file)
            assert done.status == 0, done.text[-6000:]
            yield directory
    finally:
        directory.close()
        site.ssh("gateway", f"sudo sed -i '/{LDAP_NAME}/d' /etc/hosts; sudo systemctl unmask apache2")
        for name in ("ben", "cara", "dora", "erin"):
            flexi("accounts", "remove", str(site.file), f"{name}@lab.test", "--yes")
        # Nothing else has changed: the whole site would be looked at for minutes.
        assert site.pyinfra("-y", "--limit", "gateway").status == 0
        assert failures_of(site.file) == []
        site.ssh("gateway", "sudo apt-get purge -yq apache2 apache2-bin apache2-data apache2-utils", timeout_s=300)
        for left in (
            "ldap.pem",
            "apache.conf",
            "ldap.secret",
            "oidc.log",
            "sign-in.yaml",
            "sign-in.py",
            "sign-in.keys.json",
        ):
            (here / left).unlink(missing_ok=True)


def by_directory(site: Site, name: str, password: str) -> tuple[Person, httpx.Response]:
    person = Person(site)
    return person, person.signed_in("/api/v1/auths/ldap", {"user": name, "password": password})


def test_a_directory_says_who_somebody_is_and_in_which_groups(site: Site, people: Directory) -> None:
    for wrong in ("of-cara", "", " "):
        assert by_directory(site, "ben", wrong)[1].status_code == 400
    ben, answer = by_directory(site, "ben", "of-ben")
    assert (answer.status_code, answer.json()["email"], answer.json()["role"]) == (200, "ben@lab.test", "user")
    assert ben.must_agree()
    ben.agree()
    assert BOT in ben.models()
    cara, _ = by_directory(site, "cara", "of-cara")
    cara.agree()
    assert BOT not in cara.models()

    # Out of the last group, and out of the course with the next sign-in.
    people.serve({"ben": [], "cara": [GROUP]})
    ben, _ = by_directory(site, "ben", "of-ben")
    assert BOT not in ben.models()
    cara, _ = by_directory(site, "cara", "of-cara")
    assert BOT in cara.models()


def through_the_provider(site: Site, subject: str) -> tuple[Person, str]:
    """Somebody who signs in at the provider; where the chat sends them in the end."""
    person = Person(site)
    outside = site.url.removeprefix("http://").rpartition(".")[0] + f".{SERVICES_ADDRESS.rpartition('.')[2]}"
    there = person.http.get("/oauth/oidc/login").headers["location"]
    assert there.startswith(f"http://{SERVICES_ADDRESS}:{OIDC_PORT}/")
    there = there.replace(SERVICES_ADDRESS, outside, 1)
    back = httpx.post(there, data={"sub": subject}, trust_env=False).headers["location"]
    end = person.http.get(f"{urlsplit(back).path}?{urlsplit(back).query}").headers["location"]
    return person, end


@pytest.mark.usefixtures("people")
def test_a_provider_says_who_somebody_is_and_in_which_groups(site: Site) -> None:
    erin, end = through_the_provider(site, "erin")
    assert urlsplit(end).path == "/auth"
    assert not urlsplit(end).query, end
    assert erin.must_agree()
    erin.agree()
    assert BOT in erin.models()
    assert erin.http.get("/api/v1/auths/").json()["name"] == "Erin Öz"
    # Whoever calls themselves by an address that has an account already is not taken for that person.
    eve, end = through_the_provider(site, "eve")
    assert "error=" in end
    assert eve.http.get("/api/models").status_code == 401


def by_header(site: Site, said: str, **headers: str) -> tuple[Person, httpx.Response]:
    person = Person(site)
    given = {"X_Session": said, **headers} if said else headers
    return person, person.signed_in("/api/v1/auths/signin", {"email": "", "password": ""}, **given)


@pytest.mark.usefixtures("people")
def test_apache_says_who_somebody_is_and_nobody_else_is_believed(site: Site) -> None:
    dora, answer = by_header(site, f"Dora@lab.test;other@lab.test|Dora Müller|{GROUP};sports")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["email"], answer.json()["name"]) == ("dora@lab.test", "Dora Müller")
    assert dora.must_agree()
    dora.agree()
    assert BOT in dora.models()
    again, _ = by_header(site, "dora@lab.test|Dora Müller|")
    assert BOT not in again.models()

    spoofed = {"X_Flexi_Mail": "dora@lab.test", "X_Flexi_Proof": "guessed"}
    assert by_header(site, "", **spoofed)[1].status_code == 403
    assert by_header(site, "erin@lab.test|E|", **spoofed)[1].json()["email"] == "erin@lab.test"
    past = "curl -s -o /dev/null -w '%{http_code}' -H 'X-Flexi-Mail: dora@lab.test' -H 'X-Flexi-Proof: guessed'"
    past += ' -H \'Content-Type: application/json\' -d \'{"email":"","password":""}\''
    assert site.ssh("gateway", f"{past} http://127.0.0.1:8096/api/v1/auths/signin").stdout == "400"


@pytest.mark.usefixtures("people")
def test_another_version_of_the_agreement_is_asked_for_again(site: Site) -> None:
    student = site.env["FLEXI_CHAT_USER"]
    person, answer = by_header(site, f"{student}|Student|")
    assert answer.status_code == 200, answer.text
    assert person.must_agree()
    assert NEW in person.http.get(AGREEMENT).text
    person.agree()
    assert not person.must_agree()
    assert {row["version"] for row in agreements(site) if row["mail"] == student} >= {NEW}


@pytest.mark.usefixtures("people")
def test_wrong_directives_stop_the_deploy_and_not_apache(site: Site) -> None:
    """The last one here: what it leaves on the host goes with the sign-in."""
    (site.file.parent / "apache.conf").write_text(f"{APACHE}Nonsense on\n")
    done = site.pyinfra("-y", "--limit", "gateway", site_file=site.file.parent / "sign-in.yaml")
    assert done.status != 0
    assert "Apache does not start with these settings, and one that runs was left alone" in done.text
    assert "chat-front-admin.conf: Invalid command 'Nonsense'" in done.text
    assert by_header(site, "dora@lab.test|Dora|")[1].status_code == 200
