"""Site files that are wrong: each refused with its line, its reason and a remedy, all findings in one go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.site_text import GOOD

from flexi.configfile.document import MAX_BYTES
from flexi.site import SiteError, find_site, load_site
from flexi.site.consumers import Consumer, Grant


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "test.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(tmp_path: Path, text: str | bytes) -> SiteError:
    with pytest.raises(SiteError) as caught:
        load_site(write(tmp_path, text))
    assert caught.value.findings
    for finding in caught.value.findings:
        assert finding.reason
        assert finding.remedy
        assert "\n" not in str(finding)
    return caught.value


def line_of(text: str, needle: str) -> int:
    """The one line that holds `needle`."""
    lines = [number for number, line in enumerate(text.splitlines(), 1) if needle in line]
    assert len(lines) == 1, (needle, lines)
    return lines[0]


def test_the_good_file_is_fine(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, GOOD))
    assert list(site.content.hosts) == ["one", "two"]
    assert site.content.hosts["one"].groups["b"].models == ("mistral:7b", "gemma:7b")


# (what is replaced, by what, the line's new content that the finding must point to, path, words of the message)
WRONG = {
    "unknown key": ("  user: admin", "  usr: admin", "usr:", "ssh.usr", "did you mean 'user'?"),
    "unknown section": ("gateway:\n", "gatewai:\n", "gatewai:", "gatewai", "did you mean 'gateway'?"),
    "wrong type": ("count: 4", "count: four", "count: four", "hosts.one.gpus.count", "is not a whole number"),
    "number for text": ('cuda: "12.4"', "cuda: 12.4", "cuda:", "hosts.one.cuda", 'write it in quotes: "12.4"'),
    "text for list": ("models: [llama3:8b]", "models: llama3", "models: llama3", "groups.a.models", "is not a list"),
    "list for mapping": ("ssh:\n  user: admin", "ssh: [admin]", "ssh:", "ssh", "is not a mapping"),
    "a boolean is no number": ("count: 4", "count: true", "count: true", "gpus.count", "is not a whole number"),
    "too few": ("count: 4", "count: 0", "count: 0", "gpus.count", "write 1 or more"),
    "too many": ("count: 4", "count: 65", "count: 65", "gpus.count", "write 64 or less"),
    "duplicate key": ("  two:", "  one:", "  one:\n    address: 192.0.2.2", "hosts.one", "stands here twice"),
    "duplicate address": ("192.0.2.2", "192.0.2.1", "address: 192.0.2.1", "hosts.two.address", "address of one too"),
    "shared GPU": ("gpus: [2, 3]", "gpus: [1, 3]", "gpus: [1, 3]", "groups.b.gpus", "takes GPU 1, which a has"),
    "all beside another": ("gpus: [2, 3]", "gpus: all", "gpus: all", "groups.b.gpus", "(all takes every one)"),
    "misspelt all": ("gpus: [2, 3]", "gpus: al", "gpus: al", "groups.b.gpus: 'al'", "did you mean 'all'?"),
    "missing GPU": ("gpus: [2, 3]", "gpus: [2, 4]", "gpus: [2, 4]", "groups.b.gpus[1]", "write 0 to 3"),
    "GPU twice": ("gpus: [2, 3]", "gpus: [2, 2]", "gpus: [2, 2]", "groups.b.gpus[1]", "stands in this group twice"),
    "negative GPU": ("gpus: [2, 3]", "gpus: [-1]", "gpus: [-1]", "groups.b.gpus", "is no selection of GPUs"),
    "short UUID": ("gpus: [2, 3]", "gpus: [GPU-12]", "GPU-12", "groups.b.gpus", "nvidia-smi -L"),
    "index and UUID": (
        "gpus: [2, 3]",
        "gpus: [GPU-11111111-2222-3333-4444-555555555555]",
        "    groups:",
        "hosts.one.groups",
        "use one of the two",
    ),
    "host name": ("  two:", "  Two_2:", "Two_2:", "hosts.Two_2", "RFC 1123"),
    "group name": ("      b:", "      B!:", "B!:", "groups.B!", "is no group name"),
    "host name is no path": ("  two:", "  ../two:", "../two:", "hosts.../two", "is no host name"),
    "model name": ("mistral:7b", "mis tral", "mis tral", "groups.b.models[0]", "is no model name of Ollama"),
    "model name of two tags": ("mistral:7b", "mistral:7b:8b", "mistral:7b:8b", "models[0]", "is no model name"),
    "unknown model": ("mistral:7b", "mistrl:7b", "mistrl:7b", "groups.b.models[0]", "did you mean 'mistral:7b'?"),
    "model twice": ("gemma:7b", "Mistral:7B", "Mistral:7B", "groups.b.models[1]", "stands in this group twice"),
    "model too large": ("mistral:7b", "dbrx:132b", "dbrx:132b", "models[0]", "does not fit into group b"),
    "unknown card": ("RTX A5000", "RTX A500", "RTX A500", "gpus.model", "did you mean 'RTX A5000'?"),
    "address": ("192.0.2.2", "server.example", "server.example", "hosts.two.address", "is no IP address"),
    "loopback": ("192.0.2.2", "127.0.0.1", "127.0.0.1", "hosts.two.address", "other hosts can reach"),
    "IPv6": ("192.0.2.2", '"2001:db8::2"', "2001:db8::2", "hosts.two.address", "does not support yet"),
    "IPv6 for users": ("flexi.example.edu", '"2001:db8::2"', "2001:db8::2", "gateway.name", "does not support yet"),
    "gateway host": ("host: two", "host: tow", "host: tow", "gateway.host: 'tow'", "did you mean 'two'?"),
    "idle host": ("host: two", "host: one", "  two:", "hosts.two", "nothing to do"),
    "gateway name": ("flexi.example.edu", "flexi_x", "flexi_x", "gateway.name", "is no host name"),
    "platform": ("    address: 192.0.2.2", "    platform: ubuntu-2204", "ubuntu-2204", "platform", "'ubuntu-22.04'?"),
    "toolkit for a newer driver": ('cuda: "12.4"', 'cuda: "13.0"', "cuda:", "hosts.one.cuda", "needs driver 580"),
    "unknown toolkit": ('cuda: "12.4"', 'cuda: "99.1"', "cuda:", "hosts.one.cuda", "is no CUDA toolkit"),
    "toolkit without minor": ('cuda: "12.4"', 'cuda: "12"', "cuda:", "hosts.one.cuda", "write major and minor"),
    "no groups": ("    groups:\n", "    ntp:\n", "ntp:", "hosts.one.ntp", "is no key"),
    "proxy with a path": (
        "  name: test",
        "  name: test\nproxy: {https: 'http://p.example.edu:3128/x'}",
        "proxy:",
        "proxy.https",
        "has a path",
    ),
    "proxy of another kind": (
        "  name: test",
        "  name: test\nproxy: {https: 'socks5://p.example.edu'}",
        "proxy:",
        "proxy.https",
        "is no http",
    ),
    "no_proxy": ("  name: test", "  name: test\nproxy: {no_proxy: ['*.x']}", "proxy:", "no_proxy[0]", "is no host"),
    "alias": ("  name: test", "  name: &x test\n  contact: *x", "name: &x", "site.contact", "is an alias"),
    "tag": ("  name: test", "  name: !!binary test", "binary", "site.name", "without a tag"),
    "merge": ("  name: test", "  <<: {name: test}", "<<:", "site.<<", "write it out"),
    "empty value": ("  name: test", "  name:", "name:\n", "site.name", "is empty"),
    "control character": ("  name: test", '  name: test\n  contact: "a\\nb"', "contact", "site.contact", "one line"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_file(case: tuple[str, str, str, str, str], tmp_path: Path) -> None:
    old, new, needle, path, words = case
    assert GOOD.count(old) == 1
    text = GOOD.replace(old, new)
    error = refusal(tmp_path, text)
    found = [f for f in error.findings if path in str(f) and words in str(f)]
    assert found, str(error)
    first = needle.split("\n")[0].strip()
    lines = [number for number, line in enumerate(text.splitlines(), 1) if first in line]
    assert found[0].line in lines, (found[0], lines)
    assert found[0].column > 0


def test_a_finding_reads_like_a_compilers_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace("gpus: [2, 3]", "gpus: al")
    assert str(refusal(tmp_path, text)) == (
        f"test.yaml:{line_of(text, 'gpus: al')}: hosts.one.groups.b.gpus: 'al' is no selection of GPUs; "
        "did you mean 'all'?"
    )


def test_all_findings_in_one_go_and_in_order(tmp_path: Path) -> None:
    text = GOOD.replace("user: admin", "usr: admin").replace("count: 4", "count: x").replace("host: two", "hots: two")
    error = refusal(tmp_path, text)
    paths = [finding.path for finding in error.findings]
    assert paths == ["ssh.user", "ssh.usr", "hosts.one.gpus.count", "gateway.host", "gateway.hots"]
    assert [f.line for f in error.findings] == sorted(f.line for f in error.findings)


def test_rules_are_checked_together_too(tmp_path: Path) -> None:
    text = (
        GOOD.replace("192.0.2.2", "192.0.2.1").replace("gpus: [2, 3]", "gpus: [1, 9]").replace("host: two", "host: x")
    )
    paths = {finding.path for finding in refusal(tmp_path, text).findings}
    assert {"hosts.two.address", "hosts.one.groups.b.gpus", "hosts.one.groups.b.gpus[1]", "gateway.host"} <= paths


def test_missing_key_points_to_its_section(tmp_path: Path) -> None:
    text = GOOD.replace("    address: 192.0.2.2\n", "    platform: debian-12\n")
    (finding,) = refusal(tmp_path, text).findings
    assert (finding.line, finding.path, finding.reason) == (line_of(text, "  two:"), "hosts.two.address", "is missing")
    assert finding.remedy == 'add it, e.g. address: "192.0.2.11"'


@pytest.mark.parametrize("key", ["  tls:", "  classes:\n    staff:", "chat:", "mirrors:", "ntp_servers:"])
def test_a_key_with_nothing_behind_it_is_not_as_if_it_were_not_there(key: str, tmp_path: Path) -> None:
    # What stood below it is commented out: `tls:` alone would be plain HTTP without a word.
    text = f"{GOOD}{key}\n    # certificate: x.pem\n"
    finding = refusal(tmp_path, text).findings[0]
    assert (finding.line, finding.reason) == (line_of(text, key.splitlines()[-1]), "is empty")
    assert "or remove it" in finding.remedy
    (must, *_) = refusal(tmp_path, GOOD.replace("name: test", "name:", 1)).findings
    assert "remove" not in must.remedy


def test_a_key_may_say_null(tmp_path: Path) -> None:
    assert load_site(write(tmp_path, f"{GOOD}  tls: null\nchat: ~\n")).content.chat is None


def test_group_names_are_used_once_in_the_site(tmp_path: Path) -> None:
    second = "\n    gpus: {model: A40, count: 1}\n    groups:\n      a: {gpus: all, models: ['phi3:3.8b']}"
    text = GOOD.replace("address: 192.0.2.2", "address: 192.0.2.2" + second)
    (finding,) = refusal(tmp_path, text).findings
    assert finding.path == "hosts.two.groups.a"
    assert "is a group of one too" in finding.reason


@pytest.mark.parametrize(
    ("port", "owner"),
    [
        *((22, "SSH"), (11433, "flexi-agent"), (11435, "an Ollama instance")),
        *((11432, "flexi's catalogue"), (8405, "HAProxy's metrics")),
    ],
)
def test_the_gateways_port_is_free_on_its_host(port: int, owner: str, tmp_path: Path) -> None:
    text = GOOD.replace("  two:\n    address: 192.0.2.2\n", "").replace("host: two", f"host: one\n  port: {port}")
    (finding,) = refusal(tmp_path, text).findings
    assert (finding.path, finding.reason) == ("gateway.port", f"is taken by {owner} on one")


def test_ports_of_gpu_hosts_are_free_for_a_gateway_elsewhere(tmp_path: Path) -> None:
    load_site(write(tmp_path, GOOD.replace("host: two", "host: two\n  port: 11434")))


def test_ssh_port_among_the_instances(tmp_path: Path) -> None:
    (finding,) = refusal(tmp_path, GOOD.replace("user: admin", "user: admin\n  port: 11434")).findings
    assert (finding.path, finding.reason) == ("ssh.port", "is taken by an Ollama instance on one")


def test_ssh_may_not_take_the_gateways_own_ports(tmp_path: Path) -> None:
    (finding,) = refusal(tmp_path, GOOD.replace("user: admin", "user: admin\n  port: 8405")).findings
    assert (finding.path, finding.reason) == ("ssh.port", "is taken by HAProxy's metrics on two")


def test_other_ports_can_be_opened(tmp_path: Path) -> None:
    allow = "firewall: {allow: [{port: 6556, from: [198.51.100.7], purpose: Checkmk}]}\n"
    site = load_site(write(tmp_path, GOOD.replace("    address: 192.0.2.2\n", f"    address: 192.0.2.2\n    {allow}")))
    (allowed,) = site.content.hosts["two"].firewall.allow
    assert (allowed.port, allowed.sources, allowed.purpose) == (6556, ("198.51.100.7",), "Checkmk")
    # A port of the GPU hosts is free on a machine without GPUs.
    load_site(write(tmp_path, GOOD.replace("192.0.2.2\n", "192.0.2.2\n    " + allow.replace("6556", "11434"))))


def allowed(port: object = 6556, sources: str = "[198.51.100.7]", purpose: str = "x", key: str = "from") -> str:
    return f"firewall: {{allow: [{{port: {port}, {key}: {sources}, purpose: {purpose!r}}}]}}"


@pytest.mark.parametrize(
    ("lines", "path", "words"),
    [
        (allowed(22), "firewall.allow[0].port", "is SSH's, which is open already; set ssh.allow_from"),
        (allowed(80), "firewall.allow[0].port", "is the gateway's, which is open already; set gateway.allow_from"),
        (
            allowed(11435),
            "firewall.allow[0].port",
            "is for an Ollama instance on one, which nobody but flexi may reach",
        ),
        (allowed(11433), "firewall.allow[0].port", "is for flexi-agent on one"),
        (allowed(8405), "firewall.allow[0].port", "is for HAProxy's metrics on two"),
        (allowed(0), "firewall.allow[0].port", "write 1 or more"),
        (allowed(sources="[198.51.100.7/24]"), "firewall.allow[0].from[0]", "did you mean '198.51.100.0/24'?"),
        (allowed(purpose='a" accept; #'), "firewall.allow[0].purpose", "is no purpose"),
        (allowed(key="form"), "firewall.allow[0].form", "did you mean 'from'?"),
        (allowed(key="sources"), "firewall.allow[0].sources", "write one of port, from, purpose"),
        (allowed(sources="198.51.100.7"), "firewall.allow[0].from", "is not a list; write e.g. from: [198.51.100.7]"),
        (
            "firewall: {allow: 6556}",
            "firewall.allow",
            "write e.g. allow: [{port: 6556, from: [198.51.100.7], purpose: Checkmk}]",
        ),
        (
            "ollama: {version: 0.30.0}",
            "ollama.version",
            "needs 550 or newer; set ollama.version to 0.24.0, or driver.branch",
        ),
        ("ollama: {version: 0.13.5}", "ollama.version", "has no ollama-linux-amd64.tar.zst"),
        ("ollama: {version: latest}", "ollama.version", "write three numbers"),
        ("ollama: {sha256: abc}", "ollama.sha256", "64 hexadecimal digits"),
        ("driver: {branch: 535}", "driver.branch", 'write it in quotes: "535"'),
        ("driver: {branch: 535-sever}", "driver.branch", "did you mean '535-server'?"),
        ("driver: {branch: 999-server}", "driver.branch", "is no driver branch that flexi knows"),
        ("driver: {kernel: generic-hwe-24.04}", "driver.kernel", "is no kernel flavour of ubuntu-22.04 (one)"),
        ("mirrors: {ollama: ftp://x}", "mirrors.ollama", "is no http or https address"),
        ('mirrors: {ollama: "http://x/\'; rm -rf /"}', "mirrors.ollama", "is no http or https address"),
        ("mirrors: {models: http://x/path}", "mirrors.models", "has a path"),
        (f"mirrors: {{cuda_key_fingerprint: {'A' * 40}}}", "mirrors.cuda_key_fingerprint", "has no mirror"),
    ],
)
def test_wrong_section(lines: str, path: str, words: str, tmp_path: Path) -> None:
    (finding,) = refusal(tmp_path, GOOD + lines + "\n").findings
    assert finding.path == path
    assert words in str(finding)
    assert finding.line == len(GOOD.splitlines()) + 1


def test_driver_580_takes_newer_ollama_and_toolkit(tmp_path: Path) -> None:
    text = GOOD.replace('"12.4"', '"13.0"') + "driver: {branch: 580-server}\nollama: {version: 0.32.15}\n"
    load_site(write(tmp_path, text))


def test_debian_ships_no_580(tmp_path: Path) -> None:
    text = GOOD.replace("address: 192.0.2.1", "address: 192.0.2.1\n    platform: debian-12")
    (finding,) = refusal(
        tmp_path, text.replace("address: 192.0.2.1\n", "address: 192.0.2.1\n") + "driver: {branch: 580-server}\n"
    ).findings
    assert (finding.path, finding.reason) == ("hosts.one.platform", "ships no driver 580-server")


def test_no_room_names_the_group_that_has_some(tmp_path: Path) -> None:
    text = GOOD.replace("gpus: [0, 1]", "gpus: [0]").replace("gpus: [2, 3]", "gpus: [1, 2, 3]")
    text = text.replace("models: [llama3:8b]", "models: ['qwen2.5:32b']")
    (finding,) = refusal(tmp_path, text).findings
    assert finding.path == "hosts.one.groups.a.models[0]"
    assert finding.reason == (
        "does not fit into group a: 19.9 GB of weights and 4.3 GB of contexts, the group has 1 × 25.8 GB"
    )
    assert finding.remedy == "move it to group b, where it fits"


def test_a_site_may_bring_its_own_model(tmp_path: Path) -> None:
    own = (
        "models:\n  ours: {weights_bytes: 1000000000, layers: 10, heads: 8, kv_heads: 8, head_dim: 64, context: 4096}\n"
    )
    site = load_site(write(tmp_path, GOOD.replace("mistral:7b", "Ours:latest") + own))
    facts = site.model("ours:latest")
    assert facts is not None
    assert facts.width == 512


def test_a_site_may_bring_its_own_card(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, GOOD.replace("model: RTX A5000", "model: Own Card, memory_mib: 24000")))
    assert site.gpu_bytes(site.content.hosts["one"]) == 24000 * 2**20


FILES = {
    "empty": (b"", "is empty"),
    "only comments": (b"# nothing\n", "is empty"),
    "a list": (b"- a\n- b\n", "is no mapping"),
    "a word": (b"hello\n", "is no mapping"),
    "binary": (bytes(range(256)) * 8, "holds a NUL byte"),
    "not UTF-8": (b"site: {name: \xff}\n", "is not UTF-8 (byte 0xff)"),
    "10 MB": (b"a" * 10_000_000, "has more than 256 KiB"),
    "just too large": (b"#" * (MAX_BYTES + 1), "has more than 256 KiB"),
    "malformed": (b"site: [\n", "is no valid YAML"),
    "tab": (b"site:\n\tname: x\n", "is no valid YAML"),
    "two documents": (b"a: 1\n---\nb: 2\n", "is no valid YAML"),
    "deep": (b"[" * 10_000, "is nested too deeply"),
    "deep mapping": (b"{a: " * 50 + b"1" + b"}" * 50, "is nested too deeply"),
    "control character": (b"site: \x07\n", "holds a character that YAML forbids"),
    "unknown YAML version": (b"%YAML 9.9\n---\na: 1\n", "is no valid YAML"),
    "key is a list": (b"? [a]\n: 1\n", "has a key that is no text"),
    "alias to itself": (b"a: &x [*x]\n", "is an alias"),
    "laughs": (b"a: &a [x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n", "is an alias"),
    "digits": (b"site: {name: " + b"9" * 5000 + b"}\n", "is missing"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_site_file(name: str, tmp_path: Path) -> None:
    content, words = FILES[name]
    assert words in str(refusal(tmp_path, content))


def test_line_of_bad_bytes(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"a: 1\nb: 2\nc: \0\n").findings[0].line == 3
    assert refusal(tmp_path, b"a: 1\nb: \xff\n").findings[0].line == 2
    assert refusal(tmp_path, "a: 1\n\tb: 2\n").findings[0].line == 2


def test_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    load_site(write(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()))


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    for path, words in [
        (tmp_path, "is a directory"),
        (tmp_path / "none.yaml", "does not exist"),
        (tmp_path / ("x" * 5000), "cannot be read"),
        (Path("/dev/null/x.yaml"), "cannot be read"),
        (Path("/dev/zero"), "is no regular file"),
        (Path("nul\0.yaml"), "cannot be read"),
    ]:
        with pytest.raises(SiteError, match=words):
            load_site(path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SiteError, match=r"cannot be read \(Permission denied\); check its name and permissions"):
        load_site(path)


def test_find_site() -> None:
    assert find_site("lab").name == "lab.yaml"
    assert find_site("some/where.yaml") == Path("some/where.yaml")
    with pytest.raises(SiteError, match=r"'hagn' is no site; did you mean 'hagen'\? Known are example, hagen, lab"):
        find_site("hagn")
    for odd in ("", "\0", "x" * 4000):
        with pytest.raises(SiteError, match="is no site"):
            find_site(odd)


DIGEST = "0123456789abcdef" * 4


def keys(tmp_path: Path, text: str) -> Path:
    (tmp_path / "test.keys.json").write_text(text)
    return write(tmp_path, GOOD)


def test_consumers_come_from_the_keys_file(tmp_path: Path) -> None:
    content = {"consumers": [{"name": "moodle", "sha256": DIGEST, "created": "2026-11-23T08:00:00+00:00"}]}
    site = load_site(keys(tmp_path, json.dumps(content, indent=2)))
    assert site.consumers == (Consumer(name="moodle", class_name="default", grants=(Grant(sha256=DIGEST),)),)


def test_what_the_keys_file_says_of_a_consumer(tmp_path: Path) -> None:
    entry = {
        "name": "moodle",
        "class": "anonymous",
        "owner": "Ada <ada@example.edu>",
        "purpose": "course 01613",
        "expires": "2027-04-01T00:00:00+02:00",
        "sha256": DIGEST,
        "previous": {"sha256": DIGEST[::-1], "expires": "2027-01-01T00:00:00Z"},
    }
    site = load_site(keys(tmp_path, json.dumps({"consumers": [entry]})))
    # date -u -d 2027-03-31T22:00 +%s, and of 2027-01-01T00:00
    grants = (Grant(sha256=DIGEST, expires=1806530400), Grant(sha256=DIGEST[::-1], expires=1798761600))
    assert site.consumers == (Consumer(name="moodle", class_name="anonymous", grants=grants),)


def test_no_keys_file_is_no_consumer(tmp_path: Path) -> None:
    assert load_site(write(tmp_path, GOOD)).consumers == ()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "is empty"),
        ("[]", 1, "is no mapping"),
        ("{", 1, "is no valid YAML"),
        ('{"consumers": [\n  {"name": "a", "sha256": "xyz"}]}', 2, "consumers[0].sha256: 'xyz' is no SHA-256"),
        (f'{{"consumers": [\n  {{"name": "A B", "sha256": "{DIGEST}"}}]}}', 2, "is no name for a consumer"),
        (f'{{"consumers": [\n  {{"nam": "a", "sha256": "{DIGEST}"}}]}}', 2, "did you mean 'name'?"),
        (
            f'{{"consumers": [\n  {{"name": "a", "sha256": "{DIGEST}"}},\n  {{"name": "b", "sha256": "{DIGEST}"}}]}}',
            3,
            "is the key of a too",
        ),
        (
            f'{{"consumers": [{{"name": "a", "sha256": "{DIGEST}", "previous":\n'
            f'  {{"sha256": "{DIGEST}", "expires": "2027-01-01T00:00:00Z"}}}}]}}',
            2,
            "is the key of a too",
        ),
        (
            f'{{"consumers": [\n  {{"name": "a", "class": "staf", "sha256": "{DIGEST}"}}]}}',
            2,
            "is no class of the site",
        ),
        (f'{{"consumers": [\n  {{"name": "flexi-health", "sha256": "{DIGEST}"}}]}}', 2, "flexi's own health checks"),
        (f'{{"consumers": [\n  {{"name": "a", "expires": "2027-13-01", "sha256": "{DIGEST}"}}]}}', 2, "is no moment"),
        (f'{{"consumers": [\n  {{"name": "a", "expires": "2027-01-01", "sha256": "{DIGEST}"}}]}}', 2, "is no moment"),
    ],
)
def test_wrong_keys_file(text: str, line: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(SiteError) as caught:
        load_site(keys(tmp_path, text))
    found = [f for f in caught.value.findings if words in str(f)]
    assert found, str(caught.value)
    assert found[0].line == line
    assert "test.keys.json" in found[0].file


@pytest.mark.parametrize(
    "line",
    [
        "proxy: {https: 'http://flexi:hunter2@proxy.example.edu:3128'}",
        "proxy: {http: 'http://flexi:hunt/hunter2@proxy.example.edu'}",
        "proxy: 'http://flexi:hunter2@proxy.example.edu'",
        "proxy: {url: 'http://flexi:hunter2@proxy.example.edu'}",
        "mirrors: {cuda: 'https://flexi:hunter2@mirror.example.edu'}",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(line: str, tmp_path: Path) -> None:
    """What a message shows stands in logs, and a proxy's address in files that everyone on a host can read."""
    error = refusal(tmp_path, f"{GOOD}{line}\n")
    assert "hunter2" not in str(error)
    assert "hunter2" not in repr([vars(finding) for finding in error.findings])
    if "https: 'http://" in line:
        assert "user name or a password" in str(error)


def apt_source(more: str = "", **changed: str) -> str:
    """A site file with one apt repository, its keys changed or removed (empty value)."""
    given = {
        "name": "snap",
        "platform": "ubuntu-22.04",
        "uri": "https://m.example.edu/ubuntu",
        "suites": "[jammy-security]",
        **changed,
    }
    source = ", ".join(f"{key}: {value}" for key, value in given.items() if value)
    return GOOD.replace("  name: test\n", f"  name: test\nmirrors: {{apt: [{{{source}}}]{more}}}\n")


def test_an_apt_repository_of_the_sites_own(tmp_path: Path) -> None:
    (tmp_path / "mirror.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n")
    (tmp_path / "mirror.gpg").write_bytes(b"\x98\x33\x04")
    for key in ("mirror.asc", "mirror.gpg", str(tmp_path / "mirror.asc"), ""):
        (source,) = load_site(write(tmp_path, apt_source(key=key))).content.mirrors.apt
        assert (source.components, source.snapshot) == (("main",), False)
    load_site(write(tmp_path, apt_source(uri="file:/srv/mirror", suites="[jammy, stable/updates]")))
    load_site(write(tmp_path, apt_source(key_url="https://m.example.edu/k.asc", key_fingerprint="AB" * 20)))
    load_site(write(tmp_path, apt_source(", apt_only: true")))


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (apt_source(name="''"), "mirrors.apt[0].name", "is no short name"),
        (apt_source(name="../x"), "mirrors.apt[0].name", "is no short name"),
        (apt_source(name="cuda"), "mirrors.apt[0].name", "NVIDIA's repository"),
        (apt_source(name=""), "mirrors.apt[0].name", "is missing"),
        (apt_source(platform="debian-12"), "mirrors.apt[0].platform", "is no host's platform"),
        (apt_source(uri="ftp://m.example.edu"), "mirrors.apt[0].uri", "is no http or https address"),
        (apt_source(uri="file:relative"), "mirrors.apt[0].uri", "is no http or https address"),
        (apt_source(uri="'https://u:p@m.example.edu/ubuntu'"), "mirrors.apt[0].uri", "is no http or https address"),
        (apt_source(suites="[]"), "mirrors.apt[0].suites", "is empty"),
        (apt_source(suites="['jammy security']"), "mirrors.apt[0].suites[0]", "is no suite"),
        (apt_source(suites="['/']"), "mirrors.apt[0].suites[0]", "is no suite"),
        (apt_source(components="['main\\n']"), "mirrors.apt[0].components[0]", "is no suite or component"),
        (apt_source(key="mirror"), "mirrors.apt[0].key", "call it .asc (text) or .gpg (binary)"),
        (apt_source(key="missing.asc"), "mirrors.apt[0].key", "no such file"),
        (apt_source(key="text.gpg"), "mirrors.apt[0].key", "holds no public key"),
        (apt_source(key="binary.asc"), "mirrors.apt[0].key", "--armor"),
        (apt_source(key_url="https://m.example.edu/k"), "mirrors.apt[0].key_url", "has no fingerprint"),
        (apt_source(key_fingerprint="AB" * 20), "mirrors.apt[0].key_fingerprint", "has no key_url"),
        (
            apt_source(key="mirror.asc", key_url="https://m.example.edu/k", key_fingerprint="AB" * 20),
            "mirrors.apt[0].key_url",
            "stands beside key",
        ),
        (
            apt_source(", apt_only: true", key_url="https://m.example.edu/k", key_fingerprint="AB" * 20),
            "mirrors.apt[0].key_url",
            "give the key as a file",
        ),
        (
            GOOD.replace("  name: test", "  name: test\nmirrors: {apt_only: true}"),
            "mirrors.apt_only",
            "leaves ubuntu-22.04 without any repository",
        ),
    ],
)
def test_an_apt_repository_that_could_not_be_used(text: str, path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mirror.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n")
    (tmp_path / "text.gpg").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n")
    (tmp_path / "binary.asc").write_bytes(b"\x98\x33\x04")
    assert [f for f in refusal(tmp_path, text).findings if f.path == path and words in str(f)]


def test_two_apt_repositories_have_two_names(tmp_path: Path) -> None:
    one = "{name: m, platform: ubuntu-22.04, uri: 'https://m.example.edu/ubuntu', suites: [jammy]}"
    text = GOOD.replace("  name: test\n", f"  name: test\nmirrors: {{apt: [{one}, {one}]}}\n")
    (finding,) = refusal(tmp_path, text).findings
    assert (finding.path, finding.reason) == ("mirrors.apt[1].name", "is another repository's too")


@pytest.mark.parametrize(
    ("platform", "oldest"), [("ubuntu-22.04", "11.7"), ("ubuntu-24.04", "12.5"), ("debian-12", "12.3")]
)
def test_a_toolkit_that_the_platforms_repository_never_had(platform: str, oldest: str, tmp_path: Path) -> None:
    text = GOOD.replace("    address: 192.0.2.1\n", f"    address: 192.0.2.1\n    platform: {platform}\n")
    load_site(write(tmp_path, text.replace('"12.4"', f'"{oldest}"')))
    major, minor = oldest.split(".")
    (finding,) = refusal(tmp_path, text.replace('"12.4"', f'"{major}.{int(minor) - 1}"')).findings
    assert (finding.path, finding.remedy) == ("hosts.one.cuda", f'write "{oldest}" or later, in quotes')


@pytest.mark.parametrize(
    ("kernel", "platform", "fits"),
    [
        ("generic", "debian-12", True),
        ("cloud-amd64", "debian-12", True),
        ("cloud-amd64", "ubuntu-22.04", False),
        ("generic-hwe-22.04", "ubuntu-22.04", True),
        ("generic-hwe-22.04", "ubuntu-24.04", False),
        ("generic-hwe-24.04", "ubuntu-24.04", True),
        ("generic-hwe-24.04", "debian-12", False),
    ],
)
def test_a_kernels_flavour_is_its_platforms(kernel: str, platform: str, fits: bool, tmp_path: Path) -> None:
    text = GOOD.replace('    cuda: "12.4"\n', "").replace("192.0.2.1\n", f"192.0.2.1\n    platform: {platform}\n")
    text = text.replace("  name: test\n", f"  name: test\ndriver: {{kernel: {kernel}}}\n")
    if fits:
        load_site(write(tmp_path, text))
        return
    (finding,) = refusal(tmp_path, text).findings
    assert (finding.path, finding.reason) == ("driver.kernel", f"is no kernel flavour of {platform} (one)")


def test_an_order_that_fits_is_named(tmp_path: Path) -> None:
    """Models are loaded in the order of the list: the small ones would leave no room for the large one."""
    text = GOOD.replace("RTX A5000", "A40").replace("- mistral:7b", "- dbrx:132b\n          - llama3:8b")
    text = text.replace("gpus: [2, 3]\n", "gpus: [2, 3]\n        context: 4096\n        parallel: 1\n")
    load_site(write(tmp_path, text))
    text = text.replace("          - dbrx:132b\n", "").replace("- gemma:7b\n", "- gemma:7b\n          - dbrx:132b\n")
    (finding,) = refusal(tmp_path, text).findings
    assert finding.path == "hosts.one.groups.b.models[2]"
    assert finding.remedy == (
        "they are loaded in the order of this list, and fit in this one: [dbrx:132b, gemma:7b, llama3:8b]"
    )
