"""Every template is strict, and the gateway's and firewall's say what the plan says."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import jinja2
import pytest

from flexi.configs.rendering import render
from flexi.paths import ROOT
from flexi.plan.build.haproxy import haproxy_plan
from flexi.plan.model.chat import ChatEdgePlan
from flexi.plan.model.firewall import FirewallRule
from flexi.plan.model.gateway import Backend, BackendServer, GatewayHostPlan, GatewayPlan, LedgerPlan, PeerPlan
from flexi.site.consumers import Consumer, Grant

TEMPLATES = sorted(path.relative_to(ROOT / "templates") for path in (ROOT / "templates").rglob("*.j2"))


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_a_missing_value_is_an_error(template: object) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render(str(template))


GATEWAY = GatewayPlan(
    haproxy=haproxy_plan("flexi.example.edu"),
    hosts=("gateway",),
    address="192.0.2.1",
    name="flexi.example.org",
    port=8080,
    catalogue_port=11432,
    metrics_port=8405,
    ledger=LedgerPlan(port=8406, socket="/run/flexi-ledger/ledger.sock", retention_days=7, usage_days=400),
    max_connections=1000,
    queue_length=20,
    body_limit_bytes=2**20,
    guard_sockets=("/run/flexi-guard/1.sock", "/run/flexi-guard/2.sock"),
    inner_socket="/run/haproxy/flexi-inner.sock",
    timeout_s=600,
    queue_timeout_s=60,
    anonymous_paths=("/api/tags",),
    backends=(
        Backend(
            name="model_llama3_8b",
            model="llama3:8b",
            names=("llama3:8b",),
            context=8192,
            embedding=False,
            servers=(
                BackendServer(
                    name="a", group="a", address="192.0.2.2", port=11434, agent_port=11433, max_connections=4
                ),
                BackendServer(
                    name="b", group="b", address="192.0.2.3", port=11435, agent_port=11433, max_connections=2
                ),
            ),
        ),
    ),
    consumers=(Consumer(name="moodle", class_name="default", grants=(Grant(sha256="ab" * 32),)),),
)

HERE = GatewayHostPlan(packages=("haproxy",), peers=(PeerPlan(name="gateway", address="127.0.0.1"),), peers_port=11431)


def haproxy(gateway: GatewayPlan = GATEWAY) -> str:
    return render("gateway/haproxy.cfg.j2", gateway=gateway, here=HERE, name="gateway", maps="/etc/haproxy/flexi")


def test_each_server_takes_what_its_instance_runs_at_once() -> None:
    servers = re.findall(
        r"^    server (\S+) (\S+) check maxconn (\d+) agent-port (\d+) agent-send (.*)$", haproxy(), re.M
    )
    assert servers == [
        ("a", "192.0.2.2:11434", "4", "11433", r'"a llama3:8b\n"'),
        ("b", "192.0.2.3:11435", "2", "11433", r'"b llama3:8b\n"'),
    ]


def sections(text: str) -> dict[str, list[str]]:
    """The lines of each section of HAProxy's configuration, without comments."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.match(r"(global|defaults|frontend|backend)\b", line):
            found[line] = []
        elif found and line.strip() and not line.strip().startswith("#"):
            found[list(found)[-1]].append(line.strip())
    return found


def test_the_edge_hands_everything_for_an_instance_to_the_guard() -> None:
    edge = sections(haproxy())["frontend api"]
    chosen = [line for line in edge if line.startswith("use_backend")]
    assert chosen == ["use_backend catalogue if is_list", "use_backend guard"]
    guard = sections(haproxy())["backend guard"]
    assert [line for line in guard if line.startswith("server ")] == [
        "server guard1 unix@/run/flexi-guard/1.sock",
        "server guard2 unix@/run/flexi-guard/2.sock",
    ]


def test_a_client_that_goes_away_is_noticed_by_front_ends_as_well() -> None:
    """HAProxy 2.4 and 2.6 do not notice it where the option stands at back ends only (haproxy#2344)."""
    config = sections(haproxy(GATEWAY.model_copy(update={"chat": CHAT})))
    assert "option abortonclose" in config["defaults"]
    assert [name for name, lines in config.items() if "no option abortonclose" in lines] == []
    assert [name for name in config if name.startswith("defaults")] == ["defaults"]


def test_a_client_that_goes_without_a_word_is_noticed_within_a_minute() -> None:
    """tcp(7): probes begin after TCP_KEEPIDLE, and after TCP_KEEPCNT of them the connection is dropped."""
    defaults = sections(haproxy())["defaults"]
    assert "option clitcpka" in defaults
    said = dict(line.split() for line in defaults if line.startswith("clitcpka-"))
    idle, between = (int(said[f"clitcpka-{name}"].removesuffix("s")) for name in ("idle", "intvl"))
    assert idle + between * int(said["clitcpka-cnt"]) <= 60


def test_what_no_instance_knows_of_stays_in_the_gateway() -> None:
    """Of headers that only the gateway may say, a client's are deleted before anything is set, ours before a server."""
    edge = sections(haproxy())["frontend api"]
    first = next(line for line in edge if line.startswith("http-request"))
    assert first == "http-request del-header X-Flexi- -m beg"
    inner = sections(haproxy())["frontend inner"]
    assert inner.index("http-request del-header x-flexi- -m beg") > max(
        number for number, line in enumerate(inner) if "req.hdr(x-flexi-" in line
    )
    assert "bind unix@/run/haproxy/flexi-inner.sock mode 660 group flexi-guard" in inner


def test_a_queue_is_bounded_and_has_room_for_who_has_little_under_way() -> None:
    model = sections(haproxy())["backend model_llama3_8b"]
    bounds = [line.split(" if ")[1] for line in model if "queue_full" in line]
    assert bounds == ["{ queue ge 20 } !{ var(txn.priority) -m int le 2 }", "{ queue ge 28 }"]


def test_what_a_model_is_may_be_asked_past_the_queue_and_of_ready_instances_only() -> None:
    show = sections(haproxy())["backend show_model_llama3_8b"]
    assert [line for line in show if line.startswith("server ")] == [
        "server a 192.0.2.2:11434 track model_llama3_8b/a",
        "server b 192.0.2.3:11435 track model_llama3_8b/b",
    ]


CHAT = ChatEdgePlan(
    name="chat.example.org",
    url="http://chat.example.org:8088",
    own_port=8088,
    title="Fragen & Antworten",
    language="de",
    address="192.0.2.9",
    port=8095,
    api_port=8094,
    stripped_headers=("mail", "displayName"),
    connections=4000,
    consumer="flexi-chat",
    person_header="X-Flexi-Person",
    person_at_once=8,
)


def test_the_chats_requests_pass_by_everything_that_is_the_apis() -> None:
    edge = sections(haproxy(GATEWAY.model_copy(update={"chat": CHAT})))["frontend api"]
    assert "acl is_chat req.hdr(host),field(1,:) -m str -i chat.example.org" in edge
    first = [line for line in edge if line.startswith("http-request")][:2]
    assert first == ["http-request set-log-level silent if is_chat", "http-request allow if is_chat"]
    assert edge.index("use_backend chat if is_chat") < edge.index("use_backend catalogue if is_list")
    assert "bind 127.0.0.1:8094" in edge


def test_what_a_client_says_of_itself_never_reaches_the_chat() -> None:
    """Such a header would sign it in as anybody."""
    chat = sections(haproxy(GATEWAY.model_copy(update={"chat": CHAT})))["backend chat"]
    deleted = {line.removeprefix("http-request del-header ") for line in chat if "http-request del-header" in line}
    assert deleted >= {"mail", "displayName", "X-Flexi- -m beg", "X-Forwarded- -m beg", "Forwarded", "X-Real-IP"}
    assert "server chat 192.0.2.9:8095 check inter 2s fastinter 500ms downinter 1s fall 5 rise 1" in chat


def test_a_browsers_page_comes_from_the_one_address_that_the_chat_knows() -> None:
    config = sections(haproxy(GATEWAY.model_copy(update={"chat": CHAT})))
    assert "http-request set-header Origin http://chat.example.org:8088 if from_here" in config["backend chat"]
    assert "http-request set-header Host chat.example.org:8088" in config["backend chat"]
    own = config["frontend chat"]
    assert "bind *:8088" in own
    assert "http-request redirect prefix http://chat.example.org:8088 code 308 unless by_name or by_address" in own
    shared = sections(haproxy(GATEWAY.model_copy(update={"chat": CHAT.model_copy(update={"own_port": None})})))
    assert "frontend chat" not in shared
    assert "backend chat" in shared


def test_the_page_of_a_chat_that_is_away_is_html() -> None:
    page = render("gateway/chat-away.html.j2", gateway=GATEWAY.model_copy(update={"chat": CHAT}))
    assert "<title>Fragen &amp; Antworten</title>" in page


def test_without_a_chat_nothing_is_for_it() -> None:
    assert "is_chat" not in haproxy()
    assert "backend chat" not in haproxy()


def test_every_error_of_the_inner_front_end_says_that_it_is_haproxys() -> None:
    """So that the guard neither passes it on nor takes it for an instance's. The codes: 2.4's manual, http-error."""
    inner = sections(haproxy())["frontend inner"]
    said = {line.split()[2] for line in inner if line.startswith("http-error status") and "X-Flexi-Failed" in line}
    assert said >= {"400", "408", "500", "502", "503", "504"}
    refusals = [line for lines in sections(haproxy()).values() for line in lines if 'string "failed"' in line]
    assert all("X-Flexi-Failed" in line for line in refusals)


ERRORS = re.compile(r'http-error status (\d+) content-type "application/json"(?: hdr \S+ \S+)* lf-string "(.*)\\n"')


@pytest.mark.parametrize("path", ["/", "/v1/", "/v1/messages"])
def test_haproxys_own_errors_have_the_dialect_of_the_path(path: str) -> None:
    """The codes: 2.4's manual, http-error, of those that HAProxy makes without being told to."""
    maps = [(ROOT / f"templates/gateway/{name}.map").read_text().splitlines() for name in ("dialects", "dialects-end")]
    opened, closed = (dict(line.split(" ", 1) for line in lines)[path] for lines in maps)
    errors = [found for line in sections(haproxy())["frontend api"] if (found := ERRORS.fullmatch(line))]
    assert {found[1] for found in errors} == {"400", "408", "500", "502", "503", "504"}
    for found in errors:
        code = re.search(r"%\[var\(txn.close\),regsub\(refused,(\w+)\)\]$", found[2])
        assert code is not None
        words = found[2].removeprefix("%[var(txn.open)]").removesuffix(code[0])
        error = json.loads(opened + words + closed.replace("refused", code[1]))["error"]
        assert words == (error if path == "/" else error["message"])
        assert path != "/v1/" or error["code"] == code[1]
        assert ";" in words, "no remedy"


def test_what_asks_for_no_path_gets_json_too() -> None:
    """`OPTIONS *`: HAProxy's `path` finds nothing there, and a rule that finds nothing leaves a variable as it was.

    In tcp-request: of what HAProxy refuses by itself, no rule of http-request gets to see anything.
    """
    edge = sections(haproxy(GATEWAY.model_copy(update={"chat": CHAT})))["frontend api"]
    for end, name in (("open", "dialects"), ("close", "dialects-end")):
        first = next(line for line in edge if f"set-var(txn.{end})" in line)
        assert first == f"tcp-request content set-var(txn.{end}) str(/),map_beg(/etc/haproxy/flexi/{name}.map)"
    kinds = [line.split()[0] for line in edge if line.startswith(("tcp-request", "http-request"))]
    assert kinds == sorted(kinds, reverse=True), "HAProxy warns at each start"


def test_the_chats_errors_are_its_own() -> None:
    """What a back end does not say is said by the front end, and the API's words are no page."""
    config = sections(haproxy(GATEWAY.model_copy(update={"chat": CHAT})))
    said = {
        name: {line.split()[2] for line in config[name] if line.startswith("http-error status")}
        for name in ("frontend api", "backend chat")
    }
    assert said["backend chat"] >= said["frontend api"]


def test_without_anonymous_paths_nothing_is_anonymous() -> None:
    config = haproxy(GATEWAY.model_copy(update={"anonymous_paths": ()}))
    assert "is_anonymous" not in config
    assert "is_anonymous" in haproxy()


def test_no_key_is_in_a_map_or_the_configuration() -> None:
    keys = render("gateway/keys.map.j2", consumers=GATEWAY.consumers)
    assert f"{'ab' * 32} moodle:default" in keys.splitlines()
    assert "moodle" not in haproxy()


def test_firewall_rules_by_address_family() -> None:
    rules = (
        FirewallRule(port=22, sources=(), purpose="SSH"),
        FirewallRule(port=11434, sources=("192.0.2.1", "2001:db8::/32", "198.51.100.0/24"), purpose="Ollama"),
    )
    lines = [
        line.strip() for line in render("firewall/firewall.nft.j2", rules=rules, vrrp_from=("192.0.2.9",)).splitlines()
    ]
    assert 'tcp dport 22 accept comment "SSH"' in lines
    assert 'ip saddr { 192.0.2.1, 198.51.100.0/24 } tcp dport 11434 accept comment "Ollama"' in lines
    assert 'ip6 saddr { 2001:db8::/32 } tcp dport 11434 accept comment "Ollama"' in lines
    assert 'ip saddr { 192.0.2.9 } meta l4proto 112 accept comment "VRRP; by number as above"' in lines
    assert not [line for line in lines if line.startswith("tcp dport 11434")], "the Ollama port is open to everyone"


def test_apache_lets_the_gateways_check_in_whatever_the_admin_asks_for() -> None:
    """Sections count in their order (httpd.apache.org/docs/2.4/sections.html): its own comes after the admin's."""
    chat, headers = (
        SimpleNamespace(name="c", address="a", listen_port=1),
        SimpleNamespace(mail="m", name="n", groups=""),
    )
    text = render("chat/front.conf.j2", chat=chat, headers=headers, inside="i")
    _, _, after = text.partition("\nInclude ")
    section = re.search(r'<Location "/health">(.*?)</Location>', after, re.S)
    assert section is not None
    assert "\n  Require all granted\n" in section[1]
    assert re.search(r"<IfModule mod_shib>\s+ShibRequestSetting requireSession Off\s+</IfModule>", section[1])
