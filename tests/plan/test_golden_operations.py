"""What a deploy does: the ordered operations of the real deploy.py for each platform, branch and toolkit.

For a bare host, for the same host afterwards, and for each way in which a host drifts away. One line an operation; `*`
marks those that a dry run announces, which must be exactly those that then change something. After a change that is
meant: FLEXI_GOLDEN=write, and read the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import get_type_hints

import pytest
from pyinfra.api import Config, Inventory, State, arguments, connectors
from pyinfra.api.connect import connect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import HostData
from pyinfra.api.operations import run_ops
from pyinfra.context import ctx_host, ctx_state
from support.model_host import KERNEL, File, ModelHost, answering

from flexi.catalog.platforms import PLATFORMS
from flexi.facts.driver import REBOOT_MARK
from flexi.facts.host import LocalTime
from flexi.paths import ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import HostPlan, Plan
from flexi.site import load_site

GOLDEN = Path(__file__).parent / "golden" / "operations"

SITE = """\
site: {{name: golden}}
ssh: {{user: admin}}
driver: {{branch: {branch}}}
hosts:
  one:
    address: 192.0.2.1
    platform: {platform}
    gpus: {{model: RTX A5000, count: 2}}
    {cuda}
    groups:
      a: {{gpus: [0], models: [llama3:8b]}}
      b: {{gpus: [1], models: [mistral:7b]}}
  two: {{address: 192.0.2.2, platform: {platform}}}
gateway: {{host: two, name: flexi.example.edu, {gateway}}}
"""

ARCHIVE = {
    ("ubuntu-22.04", "535-server"): "535.309.01-0ubuntu0.22.04.1",
    ("ubuntu-24.04", "535-server"): "535.309.01-0ubuntu0.24.04.1",
    ("ubuntu-22.04", "580-server"): "580.173.02-0ubuntu0.22.04.1",
    ("ubuntu-24.04", "580-server"): "580.173.02-0ubuntu0.24.04.1",
    ("debian-12", "535-server"): "535.309.01-0+deb12u1",
}
KERNELS = {"debian-12": "6.1.0-56-amd64"}
COMBINATIONS = [
    (platform, branch, cuda) for platform, row in PLATFORMS.items() for branch in row.drivers for cuda in (None, "12.5")
]


@dataclass(frozen=True)
class Line:
    """An operation of a run: whether it was announced, and whether it then changed something (None: not reached)."""

    name: str
    announced: bool
    changed: bool | None

    def __str__(self) -> str:
        return f"{'*' if self.announced else ' '} {self.name}"


@dataclass(frozen=True)
class Run:
    lines: list[Line]
    refused: bool

    @property
    def announced(self) -> list[str]:
        return [line.name for line in self.lines if line.announced]

    @property
    def changed(self) -> list[str]:
        return [line.name for line in self.lines if line.changed]


@cache
def compiled(script: str) -> CodeType:
    return compile((ROOT / script).read_text(encoding="utf-8"), script, "exec")


Deploy = Callable[..., Run]


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Foretell and then carry out (unless told otherwise) a deploy, or another script, of one host that `model` stands
    for."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    # What pyinfra asks for at every operation or host, and what never changes: most of these tests' time. The arguments
    # of operations (_sudo) come from our scripts alone; that a host's data has none is found out in one step.
    monkeypatch.setattr(arguments, "get_type_hints", cache(get_type_hints))
    monkeypatch.setattr("pyinfra.api.inventory.get_all_connectors", cache(connectors.get_all_connectors))
    monkeypatch.setattr("pyinfra.api.inventory.get_execution_connectors", cache(connectors.get_execution_connectors))
    look_up = HostData.__getattr__

    def data(self: HostData, key: str) -> object:
        if key in arguments.all_argument_meta:
            raise AttributeError(key)
        return look_up(self, key)

    monkeypatch.setattr(HostData, "__getattr__", data)

    def run(
        plan: Plan, host: HostPlan, model: ModelHost, carry_out: bool = True, script: str = "deploy.py", **data: object
    ) -> Run:
        def converge(*_: object) -> bool:
            model.converge_courses()
            return True

        monkeypatch.setattr("flexi.operations.courses._converge", converge)
        given = {"fake_delay": 0, "fake_delay_jitter": 0, "flexi_plan": plan, "flexi_host": host, **data}
        with answering(model, monkeypatch):
            inventory = Inventory(([(f"@fake/{host.name}", given)], {}))
            state = State(inventory, Config())
            connect_all(state)
            (fake,) = inventory
            # As the plan calls it; pyinfra's fake hosts carry their connector in the name.
            fake.name = host.name
            inventory.hosts[host.name] = fake
            before = model.copy()
            with ctx_state.use(state), ctx_host.use(fake):
                exec(compiled(script), {"__name__": "deploy"})
            assert model == before, "a dry run changed the host"
            announced = {op: state.ops[fake][op].operation_meta.will_change for op in fake.op_hash_order}
            refused = False
            try:
                if carry_out:
                    run_ops(state)
            except PyinfraError:
                refused = True
        lines = []
        for op in fake.op_hash_order:
            meta = state.ops[fake][op].operation_meta
            done = meta.did_change() if meta.is_complete() else None
            lines.append(Line("".join(state.get_op_meta(op).names), announced[op], done))
        return Run(lines, refused)

    return run


@dataclass(frozen=True)
class Case:
    plan: Plan
    host: HostPlan
    bare: ModelHost


def case(
    directory: Path,
    platform: str,
    branch: str,
    cuda: str | None,
    name: str = "one",
    gateway: str = "",
    text: str = SITE,
) -> Case:
    path = directory / "golden.yaml"
    toolkit = f'cuda: "{cuda}"' if cuda else ""
    path.write_text(text.format(platform=platform, branch=branch, cuda=toolkit, gateway=gateway))
    plan = build_plan(load_site(path))
    host = plan.host(name)
    kernel = KERNELS.get(platform, KERNEL)
    bare = ModelHost(
        kernel=kernel,
        kernels=(kernel,),
        gpus=2,
        card=host.gpu_model or "",
        driver_package=host.driver.version_package if host.driver else "",
        versions=dict.fromkeys(("nvidia-*", "libnvidia-*", "libcuda1"), ARCHIVE[platform, branch]),
        models={"a": ["llama3:8b"], "b": ["mistral:7b"], "old": []},
        stores={"a": ["llama3:8b"], "b": ["mistral:7b"]},
    )
    return Case(plan, host, bare)


def compare(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FLEXI_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("platform", "branch", "cuda"), COMBINATIONS)
def test_a_bare_host_and_the_same_afterwards(
    platform: str, branch: str, cuda: str | None, deploy: Deploy, tmp_path: Path
) -> None:
    here = case(tmp_path, platform, branch, cuda)
    first = deploy(here.plan, here.host, here.bare, allow_reboot=True)
    assert not first.refused
    assert first.announced == first.changed, "the dry run said something else"
    assert here.bare.driver == ARCHIVE[platform, branch].split("-")[0]
    assert {"ollama@a.service", "ollama@b.service"} <= here.bare.running
    again = deploy(here.plan, here.host, here.bare)
    assert (again.refused, again.announced, again.changed) == (False, [], [])
    compare(f"{platform}_{branch}" + (f"_cuda-{cuda}" if cuda else ""), "\n".join(map(str, first.lines)) + "\n")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_bare_gateway_and_the_same_afterwards(platform: str, deploy: Deploy, tmp_path: Path) -> None:
    here = case(tmp_path, platform, "535-server", None, "two")
    first = deploy(here.plan, here.host, here.bare)
    assert first.announced == first.changed
    assert deploy(here.plan, here.host, here.bare).changed == []
    compare(f"{platform}_gateway", "\n".join(map(str, first.lines)) + "\n")


SHAPES = {
    "files": "tls: {certificate: gateway.pem, key: gateway.key}",
    "acme": "tls: {acme: {email: flexi@example.edu, account: account.json}}",
    "self-signed": "tls: {self_signed: true}",
    "pair": "standby: one, floating_address: 192.0.2.9",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_gateway_of_each_shape_and_the_same_afterwards(shape: str, deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "gateway.pem").write_text("certificate\n")
    (tmp_path / "gateway.key").write_text("key\n")
    (tmp_path / "account.json").write_text('{"kid": "k1", "hmac_key": "c2VjcmV0"}')
    here = case(tmp_path, "ubuntu-22.04", "535-server", None, "two", SHAPES[shape])
    first = deploy(here.plan, here.host, here.bare)
    assert first.announced == first.changed
    assert deploy(here.plan, here.host, here.bare).changed == []
    compare(f"ubuntu-22.04_gateway_{shape}", "\n".join(map(str, first.lines)) + "\n")


CHAT = SITE + "chat: {{host: two, name: chat.example.edu, agreement: {{version: a, en: agreement.md}}}}\n"


def _with_chat(directory: Path, text: str = CHAT, platform: str = "debian-12") -> Case:
    (directory / "agreement.md").write_text("Be kind.\n")
    return case(directory, platform, "535-server", None, "two", text=text)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_bare_host_with_the_chat_and_the_same_afterwards(platform: str, deploy: Deploy, tmp_path: Path) -> None:
    here = _with_chat(tmp_path, platform=platform)
    first = deploy(here.plan, here.host, here.bare)
    assert first.announced == first.changed
    assert "flexi-chat.service" in here.bare.running & here.bare.enabled
    assert here.bare.files["/etc/flexi/chat-secrets.env"].mode == 600
    again = deploy(here.plan, here.host, here.bare)
    assert (again.announced, again.changed) == ([], [])
    compare(f"{platform}_chat", "\n".join(map(str, first.lines)) + "\n")


SIGN_IN = """\
chat:
  host: two
  name: chat.example.edu
  sign_in:
    local: false
    ldap: {{host: ldap.example.edu, ca: ca.pem, bind_dn: cn=x, bind_password: {{file: x.secret}}, base: dc=x}}
    oidc: {{discovery: "https://login.example.edu/x", client_id: chat, client_secret: {{command: cat x.secret}}}}
    trusted_headers: {{apache: shib.conf, groups: isMemberOf}}
"""


def test_every_way_of_sign_in_and_back_to_passwords(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "x.secret").write_text("much $ecret\n")
    (tmp_path / "shib.conf").write_text("<Location />\n  AuthType shibboleth\n</Location>\n")
    here = _with_chat(tmp_path, SITE + SIGN_IN)
    first = deploy(here.plan, here.host, here.bare)
    assert first.announced == first.changed
    files = here.bare.files
    given = files["/etc/flexi/chat-given.env"]
    assert (
        given.mode == files["/etc/flexi/chat-front-admin.conf"].mode == files["/etc/flexi/chat-proof.env"].mode == 600
    )
    assert given.content.decode().splitlines()[1:] == [
        'LDAP_APP_PASSWORD="much \\$ecret"',
        'OAUTH_CLIENT_SECRET="much \\$ecret"',
    ]
    assert "ecret" not in files["/etc/flexi/chat.env"].content.decode()
    assert "flexi-chat-front.service" in here.bare.running & here.bare.enabled
    again = deploy(here.plan, here.host, here.bare)
    assert (again.announced, again.changed) == ([], [])
    compare("debian-12_chat_sign-in", "\n".join(map(str, first.lines)) + "\n")
    plain = _with_chat(tmp_path)
    back = deploy(plain.plan, plain.host, here.bare)
    assert back.announced == back.changed
    assert "flexi-chat-front.service" not in here.bare.running | here.bare.enabled
    ours = ("/etc/flexi/chat-front", "/etc/flexi/chat-given", "/etc/flexi/chat-proof", "/etc/flexi/chat-ldap")
    assert not {path for path in files if path.startswith(ours)}


POSTGRESQL = CHAT.replace("name: chat", "database: postgresql, workers: 2, name: chat")


def test_a_chat_with_postgresql_and_the_same_afterwards(deploy: Deploy, tmp_path: Path) -> None:
    here = _with_chat(tmp_path, POSTGRESQL, "ubuntu-24.04")
    first = deploy(here.plan, here.host, here.bare)
    assert first.announced == first.changed
    assert {"postgresql.service", "flexi-chat-redis.service"} <= here.bare.running & here.bare.enabled
    again = deploy(here.plan, here.host, here.bare)
    assert (again.announced, again.changed) == ([], [])
    compare("ubuntu-24.04_chat_postgresql", "\n".join(map(str, first.lines)) + "\n")


def test_a_chat_that_comes_later_is_foretold_at_the_gateway_too(deploy: Deploy, tmp_path: Path) -> None:
    before = case(tmp_path, "debian-12", "535-server", None, "two")
    deploy(before.plan, before.host, before.bare)
    here = _with_chat(tmp_path)
    run = deploy(here.plan, here.host, before.bare)
    assert run.announced == run.changed
    assert {"Gateway | Know the chat's key", "Gateway | Reload HAProxy without dropping a stream"} < set(run.changed)
    assert before.bare.files["/etc/haproxy/flexi/chat.map"].content.decode() == f"{'f' * 64} flexi-chat\n"


RENEWED = {
    "files": ["Gateway | Certificate | Bring the certificate", "Gateway | Reload HAProxy without dropping a stream"],
    "acme": ["Gateway | Certificate | Order the certificate"],
}


@pytest.mark.parametrize("source", RENEWED)
def test_what_a_lost_certificate_makes_of_the_next_deploy(source: str, deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "gateway.pem").write_text("certificate\n")
    (tmp_path / "gateway.key").write_text("key\n")
    (tmp_path / "account.json").write_text('{"kid": "k1", "hmac_key": "c2VjcmV0"}')
    here = case(tmp_path, "ubuntu-22.04", "535-server", None, "two", SHAPES[source])
    deploy(here.plan, here.host, here.bare)
    here.bare.files["/etc/haproxy/flexi/gateway.pem"] = File(b"another")
    again = deploy(here.plan, here.host, here.bare)
    assert again.announced == again.changed == RENEWED[source]


def test_haproxy_reads_a_new_certificate_although_the_run_that_brought_it_died(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "gateway.pem").write_text("certificate\n")
    (tmp_path / "gateway.key").write_text("key\n")
    here = case(tmp_path, "ubuntu-22.04", "535-server", None, "two", SHAPES["files"])
    deploy(here.plan, here.host, here.bare)
    (tmp_path / "gateway.pem").write_text("renewed\n")
    here.bare.files["/etc/haproxy/flexi/gateway.pem"] = File(b"renewed\nkey\n")
    assert deploy(here.plan, here.host, here.bare).changed == ["Gateway | Reload HAProxy without dropping a stream"]


def test_an_own_certificate_is_safe_from_certbots_hook(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "gateway.pem").write_text("certificate\n")
    (tmp_path / "gateway.key").write_text("key\n")
    (tmp_path / "account.json").write_text('{"kid": "k1", "hmac_key": "c2VjcmV0"}')
    ordered = case(tmp_path, "ubuntu-22.04", "535-server", None, "two", SHAPES["acme"])
    deploy(ordered.plan, ordered.host, ordered.bare)
    assert ordered.bare.files["/etc/flexi/certbot.ini"].mode == 600
    own = case(tmp_path, "ubuntu-22.04", "535-server", None, "two", SHAPES["files"])
    deploy(own.plan, own.host, ordered.bare)
    assert ordered.bare.files["/etc/haproxy/flexi/gateway.pem"].content == b"certificate\nkey\n"
    assert "/etc/flexi/certbot.ini" not in ordered.bare.files


# -- drift --------------------------------------------------------------------------------------------------------

Drift = Callable[[ModelHost, HostPlan], object]


def _edit(path: str) -> Drift:
    return lambda model, _: setattr(model.files[path], "content", b"edited\n")


def _lose(path: str) -> Drift:
    return lambda model, _: model.files.pop(path)


def _other_branch(model: ModelHost, host: HostPlan) -> None:
    """As a deploy of another branch would have left it."""
    assert host.driver is not None
    other = "580-server" if host.driver.branch == "535-server" else "535-server"
    rename = lambda name: name.replace(host.driver.branch, other) if host.driver else name  # noqa: E731
    model.packages = {rename(name): version for name, version in model.packages.items()}
    model.held = {rename(name) for name in model.held}
    holds = model.files["/var/lib/flexi/holds"]
    holds.content = rename(holds.content.decode()).encode()
    model.driver = "580.173.02" if other.startswith("580") else "535.309.01"


def _version(model: ModelHost, host: HostPlan) -> None:
    assert host.driver is not None
    model.packages[host.driver.version_package] += "x"


def _older_build(model: ModelHost, host: HostPlan) -> None:
    """Deployed when the branch's newest was older: it runs, and is installed."""
    assert host.driver is not None
    model.driver = f"{host.driver.major}.100.01"
    package = host.driver.version_package
    model.packages[package] = model.packages[package].replace(model.packages[package].split("-")[0], model.driver)


def _newer_build(model: ModelHost, host: HostPlan) -> None:
    """The archive has a newer driver of the branch, and no newer kernel; a pinned build keeps it out."""
    assert host.driver is not None
    if host.driver.wanted_version:
        return
    version = f"{host.driver.major}.999.01"
    model.versions = dict.fromkeys(("nvidia-*", "libnvidia-*", "libcuda1"), f"{version}-0ubuntu1")


def _newest_kernel(model: ModelHost, host: HostPlan) -> None:
    """The archive's meta packages bring a newer kernel and its modules."""
    assert host.driver is not None
    newest = model.kernel.replace("-186-", "-190-").replace("-56-", "-60-")
    image, modules = f"linux-image-{newest}", host.driver.module_package.format(release=newest)
    (meta,) = [name for name in host.driver.holds if name.startswith("linux-image-")]
    model.packages[meta] = "1"
    model.versions = {meta: "2", **model.versions}
    model.brings = {meta: (image, modules)}


def _newer_kernel(model: ModelHost, host: HostPlan) -> None:
    model.kernels = (*model.kernels, model.kernel.replace("-186-", "-190-").replace("-56-", "-60-"))


def _older_ollama(model: ModelHost, host: HostPlan) -> None:
    model.files["/opt/ollama/0.23.4/.archive-sha256"] = File(b"1" * 64)
    model.links["/opt/ollama/current"] = "0.23.4"


def _leftover(model: ModelHost, host: HostPlan) -> None:
    model.running.add("ollama@old.service")
    model.enabled.add("ollama@old.service")


def _drop_package(model: ModelHost, host: HostPlan) -> None:
    assert host.driver is not None
    del model.packages[host.driver.version_package]
    model.held.discard(host.driver.version_package)  # dpkg forgets the hold with the package


def _unhold(model: ModelHost, host: HostPlan) -> None:
    assert host.driver is not None
    model.held.remove(host.driver.version_package)


DRIFTS: dict[str, tuple[Drift, dict[str, object]]] = {
    "another driver runs": (lambda model, _: setattr(model, "driver", "550.54.15"), {"allow_reboot": True}),
    "another driver runs, and no reboot is allowed": (lambda model, _: setattr(model, "driver", "550.54.15"), {}),
    "nouveau has the cards": (lambda model, _: setattr(model, "nouveau", True), {"allow_reboot": True}),
    "the library was changed under the module": (
        lambda model, _: setattr(model, "smi_error", "Failed to initialize NVML: Driver/library version mismatch"),
        {"allow_reboot": True},
    ),
    "a card is lost": (lambda model, _: setattr(model, "gpus", 1), {}),
    "another branch is installed": (_other_branch, {"allow_reboot": True}),
    "another build of the driver's packages": (_version, {"allow_reboot": True}),
    "an older build of the driver": (_older_build, {"allow_reboot": True}),
    "an older build of the driver, and no reboot is allowed": (_older_build, {}),
    "a newer build to update to": (_newer_build, {"allow_reboot": True, "update": True}),
    "a newer build to update to, and no reboot is allowed": (_newer_build, {"update": True}),
    "a newer kernel to update to": (_newest_kernel, {"allow_reboot": True, "update": True}),
    "a newer kernel to update to, and no reboot is allowed": (_newest_kernel, {"update": True}),
    "a package of the driver is missing": (_drop_package, {"allow_reboot": True}),
    "a package of the driver is missing, and no reboot is allowed": (_drop_package, {}),
    "a newer kernel came without modules": (_newer_kernel, {}),
    "a hold is missing": (_unhold, {}),
    "the pins were edited": (_edit("/etc/apt/preferences.d/flexi-driver"), {}),
    "the pins of NVIDIA's repository are gone": (_lose("/etc/apt/preferences.d/flexi-cuda"), {}),
    "NVIDIA's repository was edited": (_edit("/etc/apt/sources.list.d/flexi-cuda.sources"), {}),
    "a repository is left over": (
        lambda model, _: model.put(b"x", "/etc/apt/sources.list.d/flexi-old.sources"),
        {},
    ),
    "the limits of unattended-upgrades are gone": (_lose("/etc/apt/apt.conf.d/51flexi-unattended-upgrades"), {}),
    "an instance was stopped": (lambda model, _: model.running.remove("ollama@a.service"), {}),
    "an instance does not start at boot": (lambda model, _: model.enabled.remove("ollama@b.service"), {}),
    "an instance's settings were edited": (_edit("/etc/ollama/b.env"), {}),
    "the instances' unit was edited": (_edit("/etc/systemd/system/ollama@.service"), {}),
    "another Ollama is current": (_older_ollama, {}),
    "an instance that the plan no longer has": (_leftover, {}),
    "a model lies in a store that is not to have it": (lambda model, _: model.stores["a"].append("gemma:7b"), {}),
    "the store of a group that is gone": (lambda model, _: model.stores.update(old=["gemma:7b"]), {}),
    "the firewall was flushed": (lambda model, _: model.tables.clear(), {}),
    "the agent is an older one": (_edit("/opt/flexi/flexi-agent.pyz"), {}),
}

CONVERGED = [("ubuntu-22.04", "535-server"), ("ubuntu-24.04", "580-server"), ("debian-12", "535-server")]


def _sections(deploy: Deploy, here: Case) -> Iterator[str]:
    deploy(here.plan, here.host, here.bare, allow_reboot=True)
    for name, (drift, data) in DRIFTS.items():
        model = here.bare.copy()
        drift(model, here.host)
        run = deploy(here.plan, here.host, model, **data)
        yield f"{name}: {'refused' if run.refused else 'mended'}"
        yield from (f"* {operation}" for operation in (run.changed if run.refused else run.announced))
        if not run.refused:
            assert run.announced == run.changed, f"{name}: the dry run said something else"
            again = deploy(here.plan, here.host, model, carry_out=False)
            assert again.announced == [], f"{name}: not mended by one run"
        yield ""


@pytest.mark.parametrize(("platform", "branch"), CONVERGED)
def test_drift(platform: str, branch: str, deploy: Deploy, tmp_path: Path) -> None:
    """Each drift is mended by the operations that it needs and no others, or refused."""
    here = case(tmp_path, platform, branch, "12.5")
    compare(f"{platform}_{branch}_drift", "\n".join(_sections(deploy, here)))


def test_every_golden_file_is_of_a_case() -> None:
    cases = {f"{p}_{b}" + (f"_cuda-{c}" if c else "") for p, b, c in COMBINATIONS}
    cases |= {f"ubuntu-22.04_gateway_{shape}" for shape in SHAPES}
    cases |= {f"{p}_{what}" for p in PLATFORMS for what in ("gateway", "chat")} | {
        f"{p}_{b}_drift" for p, b in CONVERGED
    }
    cases |= {"debian-12_chat_sign-in", "ubuntu-24.04_chat_postgresql"}
    cases |= {f"ubuntu-24.04_chat_{database}_leaves" for database in ("sqlite", "postgresql")}
    assert {path.stem for path in GOLDEN.glob("*.txt")} == cases


def test_a_package_is_on_hold_only_where_it_is_pinned_too(tmp_path: Path) -> None:
    """What the goldens cannot show: the hold of a name that no pin knows would be worth nothing after an unhold."""
    for platform, branch, _ in COMBINATIONS:
        driver = case(tmp_path, platform, branch, None).host.driver
        assert driver is not None
        drivers = [name for name in driver.holds if re.search("nvidia|libcuda", name)]
        patterns = [pattern.replace("*", ".*") for pin in driver.pins for pattern in pin.packages.split()]
        for name in drivers:
            assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_the_chat_goes_forth_and_back_with_its_database(deploy: Deploy, tmp_path: Path) -> None:
    older = _with_chat(tmp_path, CHAT.replace("agreement:", "version: 0.12.3, agreement:"))
    model = older.bare
    deploy(older.plan, older.host, model)
    here = _with_chat(tmp_path)
    assert deploy(older.plan, older.host, model, script="rollback.py", chat=True).refused
    model.log.clear()
    forth = deploy(here.plan, here.host, model)
    assert forth.announced == forth.changed
    stop, keep = next(re.search(r"stop (\S+); .*schema (\w+)", c).groups() for c in model.log if "schema" in c)  # type: ignore[union-attr]
    assert (stop, keep) == ("flexi-chat.service", "keep")
    back = deploy(here.plan, here.host, model, script="rollback.py", chat=True)
    assert (
        back.announced
        == back.changed
        == [
            "Chat | Make the previous release current, the database with it",
            "Chat | Restart the chat with what is new",
        ]
    )
    assert model.links["/opt/flexi/chat/current"].startswith("0.12.3-")
    assert deploy(here.plan, here.host, model, script="rollback.py", chat=True).changed == []


def test_a_chat_that_would_begin_empty_is_refused_before_anything_changes(
    deploy: Deploy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = _with_chat(tmp_path)
    deploy(here.plan, here.host, here.bare)
    assert here.bare.files["/var/lib/flexi/chat-database"].content == b"sqlite\n"
    here.bare.files["/var/lib/flexi-chat/webui.db"] = File()
    (tmp_path / "db.secret").write_text("postgresql://chat:geheim@db.example.edu/chats\n")
    other = "database: postgresql, database_url: {{file: db.secret}}, agreement:"
    moved = _with_chat(tmp_path, CHAT.replace("agreement:", other))
    before = dict(here.bare.files)
    run = deploy(moved.plan, moved.host, here.bare)
    assert run.refused
    assert run.changed == []
    assert here.bare.files == before
    assert "deploy with `--leave-chats sqlite`" in caplog.text
    assert not deploy(moved.plan, moved.host, here.bare, leave_chats="sqlite").refused
    assert here.bare.files["/var/lib/flexi/chat-database"].content == b"db.example.edu:5432/chats\n"
    assert deploy(moved.plan, moved.host, here.bare).changed == []


def test_a_host_whose_chat_moved_away_stops_it_and_keeps_its_data(deploy: Deploy, tmp_path: Path) -> None:
    here = _with_chat(tmp_path)
    deploy(here.plan, here.host, here.bare)
    after = case(tmp_path, "debian-12", "535-server", None, "two")
    run = deploy(after.plan, after.host, here.bare)
    assert run.announced == run.changed
    assert "Base | Stop the chat where it was" in run.changed
    assert "flexi-chat.service" not in here.bare.running | here.bare.enabled
    assert "/var/lib/flexi-chat" in here.bare.directories
    assert here.bare.files["/etc/haproxy/flexi/chat.map"].content == b"# There is no chat.\n"


@pytest.mark.parametrize("database", ["sqlite", "postgresql, workers: 2"], ids=lambda text: text.partition(",")[0])
def test_a_host_with_the_chat_leaves(database: str, deploy: Deploy, tmp_path: Path) -> None:
    """What a dry run says is what is done. People's chats stay unless purged, those in PostgreSQL also then."""
    text = CHAT.replace("chat: {{host: two, name", f"chat: {{{{host: one, database: {database}, name")
    (tmp_path / "agreement.md").write_text("Be kind.\n")
    here = case(tmp_path, "ubuntu-24.04", "535-server", None, text=text)
    before = set(here.bare.files)
    deploy(here.plan, here.host, here.bare, allow_reboot=True)
    model = here.bare.copy()
    left = deploy(here.plan, here.host, model, script="remove.py")
    assert not left.refused
    assert left.announced == left.changed
    assert set(model.files) == before
    ours = {path for path in model.directories if "ollama" in path or "flexi" in path}
    assert {path for path in ours if str(Path(path).parent) not in ours} == {"/var/lib/flexi-chat", "/var/lib/ollama"}
    kept = {"postgresql.service"} if "postgresql" in database else set()
    assert {name for name in model.running | model.enabled if re.match("ollama@|flexi-|postgres", name)} == kept
    assert model.database == here.bare.database
    again = deploy(here.plan, here.host, model, script="remove.py")
    assert (again.announced, again.changed) == ([], [])
    purged = deploy(here.plan, here.host, here.bare, script="remove.py", purge=True)
    assert purged.announced == purged.changed == [*left.changed, "Removal | Remove the models and the chats"]
    assert not [path for path in here.bare.directories if "ollama" in path or "flexi" in path]
    compare(f"ubuntu-24.04_chat_{database.partition(',')[0]}_leaves", "\n".join(map(str, purged.lines)) + "\n")


def test_a_host_that_leaves_keeps_nothing_of_flexi(deploy: Deploy, tmp_path: Path) -> None:
    """Its driver, other packages and users stay."""
    here = case(tmp_path, "ubuntu-22.04", "535-server", "12.5")
    before, model = set(here.bare.files), here.bare
    deploy(here.plan, here.host, model, allow_reboot=True)
    packages = dict(model.packages)
    assert any(path.startswith("/etc/hosts:") for path in model.files)
    assert not deploy(here.plan, here.host, model, script="remove.py").refused
    assert set(model.files) == before
    assert not [name for name in model.running | model.enabled if name.startswith(("ollama@", "flexi-"))]
    assert (model.packages, model.held) == (packages, set())
    again = deploy(here.plan, here.host, model, script="remove.py")
    assert not again.refused
    assert again.announced == again.changed == []


# -- reboots ------------------------------------------------------------------------------------------------------

WINDOW = SITE + "maintenance: {{reboots: [Mon 11:00-13:00]}}\n"


def _deployed(directory: Path, deploy: Deploy, text: str = SITE) -> Case:
    here = case(directory, "ubuntu-22.04", "535-server", None, text=text)
    deploy(here.plan, here.host, here.bare, allow_reboot=True)
    here.bare.log.clear()
    return here


def _closes_once(word: str) -> Callable[[ModelHost], LocalTime]:
    """Noon, until a command with this word has run."""
    return lambda model: LocalTime(1, 840 if any(word in command for command in model.log) else 720)


def test_a_window_that_closes_before_the_turn_leaves_the_service_as_it_is(deploy: Deploy, tmp_path: Path) -> None:
    here = _deployed(tmp_path, deploy, WINDOW)
    _older_build(here.bare, here.host)
    here.bare.clock = _closes_once("apt-cache madison")
    run = deploy(here.plan, here.host, here.bare)
    assert run.refused
    assert run.changed == ["Driver | Make sure that 535.309.01-0ubuntu0.22.04.1 can be had"]
    assert here.bare.driver == "535.100.01"
    assert here.bare.boots == 2
    assert here.bare.fact("DrainSwitches") == {}


def test_a_window_that_closes_while_packages_change_leaves_no_half_change(deploy: Deploy, tmp_path: Path) -> None:
    here = _deployed(tmp_path, deploy, WINDOW)
    _older_build(here.bare, here.host)
    here.bare.clock = _closes_once("--no-install-recommends")
    run = deploy(here.plan, here.host, here.bare)
    assert not run.refused
    assert run.announced == run.changed
    assert (here.bare.driver, here.bare.boots) == ("535.309.01", 3)
    assert here.bare.fact("HostTime").minute == 840
    assert here.bare.fact("DrainSwitches") == {}


def test_a_boot_loader_of_the_admins_own_costs_one_reboot(
    deploy: Deploy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one at every deploy; but another one for a kernel that nobody has tried, or a driver that needs it."""
    here = _deployed(tmp_path, deploy)
    model = here.bare
    model.boot_loader = model.kernel
    _newer_kernel(model, here.host)
    first = deploy(here.plan, here.host, model, allow_reboot=True)
    assert (first.announced == first.changed, model.boots) == (True, 3)
    caplog.clear()
    again = deploy(here.plan, here.host, model, allow_reboot=True)
    assert (again.announced, again.changed, model.boots) == ([], [], 3)
    assert "5.15.0-190-generic is installed, and this host's boot loader starts 5.15.0-186-generic" in caplog.text
    model.smi_error = "Failed to initialize NVML: Driver/library version mismatch"
    mended = deploy(here.plan, here.host, model, allow_reboot=True)
    assert (mended.refused, model.boots) == (False, 4)
    model.kernels = (*model.kernels, "5.15.0-200-generic")
    deploy(here.plan, here.host, model, allow_reboot=True)
    assert model.boots == 5
    model.boot_loader = None
    model.files.pop(REBOOT_MARK)
    deploy(here.plan, here.host, model, allow_reboot=True)
    assert (model.kernel, REBOOT_MARK in model.files) == ("5.15.0-200-generic", False)


def test_a_driver_whose_modules_no_archive_has_is_not_begun(deploy: Deploy, tmp_path: Path) -> None:
    """Another branch is wanted, of which there are no modules for the kernel that boots next."""
    here = _deployed(tmp_path, deploy)
    _other_branch(here.bare, here.host)
    here.bare.gone = ("linux-modules-nvidia-535-server-5.15.0-186-generic",)
    before = dict(here.bare.packages)
    run = deploy(here.plan, here.host, here.bare, allow_reboot=True)
    assert run.refused
    assert here.bare.packages == before
    assert here.bare.fact("DrainSwitches") == {}
    # One that comes with the driver's packages does as well.
    newest = "5.15.0-190-generic"
    here.bare.brings = {
        "nvidia-utils-535-server": (f"linux-image-{newest}", f"linux-modules-nvidia-535-server-{newest}")
    }
    assert not deploy(here.plan, here.host, here.bare, allow_reboot=True).refused
    assert here.bare.kernel == newest


def test_a_restart_forgets_the_restarts_before(deploy: Deploy, tmp_path: Path) -> None:
    """Or the doctor sees the loop of an instance whose card was missing, after it has been mended."""
    here = _deployed(tmp_path, deploy)
    _edit("/etc/ollama/b.env")(here.bare, here.host)
    deploy(here.plan, here.host, here.bare)
    (restart,) = [command for command in here.bare.log if "systemctl restart ollama@b.service" in command]
    assert "systemctl reset-failed ollama@b.service 2>/dev/null || true\nsystemctl restart" in restart
