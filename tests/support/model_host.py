"""A host in memory: pyinfra's facts are read from it, and what operations do changes it. No shell runs.

Built on pyinfra's fake connector, which answers every command and records neither uploads nor effects. Facts are
answered by their class, from the state here: a fact or a command that the model does not know is an error, to be
taught to it. Knows pyinfra, apt, systemd and the kernel; of flexi's roles it knows nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from io import BytesIO, StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from pyinfra.connectors.fake import FakeConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

from flexi.components.stamps import STAMPS
from flexi.facts.apt import HOLDS, Holds
from flexi.facts.chat import CHAT_KEY_DIGEST, ChatDatabaseState, CourseStoreState
from flexi.facts.driver import REBOOT_MARK, DriverState
from flexi.facts.gateway import CertificateState
from flexi.facts.host import LocalTime
from flexi.facts.ollama import DRAIN_SWITCHES, OLLAMA_HOMES, GroupStore
from flexi.facts.releases import Releases
from flexi.facts.stamps import StampState
from flexi.probe import kernel_releases, upstream
from flexi.status.instances import READ_COMMAND
from flexi_host.agent.smi import Gpu

KERNEL = "5.15.0-186-generic"


@dataclass
class File:
    content: bytes = b""
    mode: int = 644
    user: str = "root"
    group: str = "root"


@dataclass
class ModelHost:
    """State of one host. The defaults are a freshly installed server without any driver."""

    hostname: str = "fresh"
    files: dict[str, File] = field(default_factory=dict)
    directories: dict[str, File] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    brings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Packages that the archive's package of a name pulls in."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions in the archive, by pattern of the name; the first that matches."""
    gone: Sequence[str] = ()
    """Patterns of packages that no archive has."""
    held: set[str] = field(default_factory=set)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    enabled: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    kernel: str = KERNEL
    kernels: tuple[str, ...] = (KERNEL,)
    driver: str | None = None
    """Version of the loaded kernel module."""
    driver_package: str = ""
    """Its version is that of the driver's library, and of the module that the next boot loads."""
    nouveau: bool = True
    smi_error: str | None = None
    """What nvidia-smi complains of, besides a library of another version than the module's."""
    boots: int = 1
    boot_loader: str | None = None
    """The kernel that every boot starts; the newest where it is None."""
    clock: Callable[[ModelHost], LocalTime] = lambda _: LocalTime(1, 720)
    gpus: int = 1
    card: str = ""
    """Model of its cards, as the site file says it."""
    models: dict[str, list[str]] = field(default_factory=dict)
    """What each instance serves as soon as it runs, by group."""
    stores: dict[str, list[str]] = field(default_factory=dict)
    """Models on the disk, by group."""
    database: ChatDatabaseState = field(default_factory=ChatDatabaseState)
    bots: dict[str, Any] | None = None
    """What the chat says of course bots; None while it cannot be asked."""
    stdin: str = ""
    """What the command that runs now reads."""
    log: list[str] = field(default_factory=list)
    """Commands that changed something, in order."""

    def copy(self) -> ModelHost:
        return copy.deepcopy(self)

    # -- facts ----------------------------------------------------------------------------------------------------

    def fact(self, name: str, **arguments: Any) -> Any:
        """The value of a pyinfra fact by its class's name."""
        method = "_fact_" + re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
        if not hasattr(self, method):
            raise NotImplementedError(f"teach tests/support/model_host.py the fact {name}")
        return getattr(self, method)(**arguments)

    def _fact_file(self, path: str, **_: Any) -> Any:
        return self._stat(self.files.get(path))

    def _fact_directory(self, path: str, **_: Any) -> Any:
        return self._stat(self.directories.get(path))

    def _fact_link(self, path: str, **_: Any) -> Any:
        return {"link_target": self.links[path], "user": "root", "group": "root"} if path in self.links else None

    def _stat(self, entry: File | None) -> dict[str, Any] | None:
        return entry and {"user": entry.user, "group": entry.group, "mode": entry.mode, "size": len(entry.content)}

    def _fact_sha1_file(self, path: str, **_: Any) -> str | None:
        entry = self.files.get(path)
        return hashlib.sha1(entry.content).hexdigest() if entry else None

    def _fact_file_contents(self, path: str, **_: Any) -> list[str] | None:
        entry = self.files.get(path)
        return entry.content.decode().rstrip("\n").split("\n") if entry else None

    def _fact_block(self, path: str, marker: str, **_: Any) -> list[str] | None:
        block = self.files.get(f"{path}:{marker}")
        return block.content.decode().split("\n") if block else None

    def _fact_hostname(self) -> str:
        return self.hostname

    def _fact_which(self, command: str) -> str | None:
        return f"/usr/bin/{command}" if command in ("hostnamectl", "groupadd", "useradd", "usermod") else None

    def _fact_os(self) -> str:
        return "Linux"

    def _fact_tmp_dir(self) -> str:
        return "/tmp"

    def _fact_users(self) -> dict[str, Any]:
        return self.users

    def _fact_groups(self) -> list[str]:
        return self.groups

    def _fact_deb_packages(self) -> dict[str, set[str]]:
        return {name: {version} for name, version in self.packages.items()}

    def _fact_systemd_status(self, services: Iterable[str], **_: Any) -> dict[str, bool]:
        return {name: name in self.running for name in services}

    def _fact_systemd_enabled(self, services: Iterable[str], **_: Any) -> dict[str, bool]:
        return {name: name in self.enabled for name in services}

    # Facts of flexi's own, in the order of flexi.facts.host.

    def _fact_nvidia_gpus(self) -> list[Gpu]:
        well = self.driver and not self._smi_error() and not self.nouveau
        uuids = [f"GPU-{i:08d}-0000-0000-0000-000000000000" for i in range(self.gpus if well else 0)]
        return [Gpu(i, uuid, f"NVIDIA {self.card}") for i, uuid in enumerate(uuids)]

    def _smi_error(self) -> str | None:
        library = upstream(self.packages.get(self.driver_package, ""))
        if self.driver and library and library != self.driver and not self.nouveau:
            return "Failed to initialize NVML: Driver/library version mismatch"
        return self.smi_error

    def _fact_upgrades(self, packages: Sequence[str], also: Sequence[str] = ()) -> dict[str, str]:
        """What `apt` would do, tried on a copy."""
        later = self.copy()
        later.apt([name for name in packages if name in self.packages], ["--upgrade"])
        later.apt(also, [])
        return {name: version for name, version in later.packages.items() if self.packages.get(name) != version}

    def _fact_real_package(self, package: str) -> bool:
        return not any(fnmatch(package, pattern) for pattern in self.gone)

    def _fact_nvidia_driver(self) -> DriverState:
        tried = [*self.files.get(REBOOT_MARK, File()).content.decode().split(), None, None]
        return DriverState(
            running=None if self.nouveau else self.driver,
            nouveau=self.nouveau,
            smi_error=self._smi_error(),
            boot_id=f"boot-{self.boots}",
            tried_boot_id=tried[0],
            tried_kernel=tried[1],
            kernel=self.kernel,
            kernels=self.kernels,
        )

    def _fact_boot_id(self) -> str:
        return f"boot-{self.boots}"

    def _fact_stamp(self, what: str, inputs: Sequence[str]) -> StampState:
        stamp = self.files.get(f"{STAMPS}/{what}")
        return StampState(self._digest(inputs), stamp.content.decode() if stamp else None)

    def _digest(self, paths: Iterable[str]) -> str:
        digest = hashlib.sha256()
        for path in paths:
            entry = self.files.get(self._followed(path))
            digest.update(path.encode() + (entry.content if entry else b""))
        return digest.hexdigest()

    def _followed(self, path: str) -> str:
        for link, target in self.links.items():
            path = path.replace(f"{link}/", f"{Path(link).parent}/{target}/")
        return path

    def _fact_held_packages(self) -> Holds:
        ours = self.files.get(HOLDS, File()).content.decode().split()
        return Holds(frozenset(self.held), frozenset(self.held & set(ours)))

    def _fact_apt_source_files(self) -> list[str]:
        return sorted(path for path in self.files if fnmatch(path, "/etc/apt/*/flexi-*.sources"))

    def _fact_unit_names(self, pattern: str) -> list[str]:
        return sorted(name for name in self.running | self.enabled if fnmatch(name, pattern))

    def _fact_ollama_releases(self) -> Releases:
        matches = (re.fullmatch(r"/opt/ollama/([^/]+)/\.archive-sha256", path) for path in self.files)
        found = {match[1]: self.files[match[0]].content.decode() for match in matches if match}
        return Releases(found, self.links.get("/opt/ollama/current"), self.links.get("/opt/ollama/previous"))

    def _fact_chat_releases(self) -> Releases:
        matches = (re.fullmatch(r"/opt/flexi/chat/([^/]+)/\.lock-sha256", path) for path in self.files)
        found = {match[1]: self.files[match[0]].content.decode() for match in matches if match}
        return Releases(found, self.links.get("/opt/flexi/chat/current"), self.links.get("/opt/flexi/chat/previous"))

    def _fact_chat_key_digest(self) -> str | None:
        entry = self.files.get(CHAT_KEY_DIGEST)
        return entry.content.decode() if entry else None

    def _fact_chat_database(self, database: str) -> ChatDatabaseState:
        return self.database

    def _fact_course_store(self, home: str) -> CourseStoreState:
        names = (path.removeprefix(f"{home}/") for path in self.files if path.startswith(f"{home}/"))
        return CourseStoreState(frozenset(names), 10**12)

    def _fact_course_bots(self, url: str) -> dict[str, Any] | None:
        return self.bots

    def converge_courses(self) -> None:
        """The program on the chat's host makes what courses.json wants."""
        wanted = json.loads(self.files["/etc/flexi/courses.json"].content)
        assert wanted["courses"] == {}, "teach tests/support/model_host.py course bots"
        self.bots = {"models": wanted["models"], "courses": {}, "absent": []}

    def _fact_key_fingerprints(self, path: str) -> list[str]:
        return [self.files[path].content.decode()] if path in self.files else []

    def _fact_nft_table(self, table: str) -> bool:
        return table in self.tables

    def _fact_drain_switches(self) -> dict[str, str]:
        prefix = f"{DRAIN_SWITCHES}/"
        switches = {path: entry for path, entry in self.files.items() if path.startswith(prefix)}
        return {path.removeprefix(prefix): entry.content.decode() for path, entry in switches.items()}

    def _fact_active_instances(self) -> frozenset[str]:
        return frozenset(name[7:-8] for name in self.running if fnmatch(name, "ollama@*.service"))

    def _fact_host_time(self) -> LocalTime:
        return self.clock(self)

    def _fact_instance_gpus(self, path: str) -> list[str]:
        lines = self.files.get(path, File()).content.decode().splitlines()
        return [uuid for line in lines if line.startswith("CUDA_VISIBLE_DEVICES=") for uuid in line[21:].split(",")]

    def _fact_matching_paths(self, patterns: Sequence[str]) -> list[str]:
        there = [*self.files, *self.directories, *self.links]
        below = {str(path) for entry in there for path in (Path(entry), *Path(entry).parents)}
        # The shell's `*` stays within one directory.
        return sorted(path for path in below for p in patterns if fnmatch(path, p) and path.count("/") == p.count("/"))

    def _fact_ollama_stores(self) -> list[GroupStore]:
        return [GroupStore(group, tuple(models)) for group, models in self.stores.items()]

    def _fact_sha256_file(self, path: str, **_: Any) -> str | None:
        entry = self.files.get(path)
        return hashlib.sha256(entry.content).hexdigest() if entry else None

    def _fact_interface_with_address(self, address: str) -> str:
        return "eth0"

    def _fact_gateway_certificate(self, path: str) -> CertificateState:
        entry, lineage = self.files.get(path), self.files.get("/etc/letsencrypt/live/flexi/fullchain.pem")
        content = entry.content if entry else b""
        made = content.startswith(b"made for ")
        return CertificateState(
            sha256=hashlib.sha256(content).hexdigest() if entry else None,
            self_signed=made,
            names=frozenset(content.decode().split()[2:]) if made else frozenset(),
            lasts=bool(content),
            ordered_sha256=hashlib.sha256(lineage.content).hexdigest() if lineage else None,
        )

    # -- effects --------------------------------------------------------------------------------------------------

    def put(self, content: bytes, path: str) -> None:
        old = self.files.get(path, File())
        self.files[path] = File(content, old.mode, old.user, old.group)
        self.log.append(f"put {path}")

    def run(self, command: str) -> list[str]:
        """Carry out a command as far as the facts can see it; returns what it prints."""
        command = re.sub(r"^(\w+=\S+ )+", "", command)
        if command == "cat /proc/sys/kernel/random/boot_id":
            return [f"boot-{self.boots}"]
        if command == READ_COMMAND:
            return [self._status(), "0"]
        self.log.append(command)
        if command.startswith("sh -c "):
            script = shlex.split(command)[2]
            return self._script(script)
        if "pyinfra.XXXXXX" in command:
            self._block(command)
            return []
        for part in command.split(" && "):
            self._simple(shlex.split(part))
        return []

    def _block(self, command: str) -> None:
        """pyinfra's files.block where the block is new: the text stands in a here document, between its marks. Where it
        goes: all but what stands between them is printed."""
        if gone := re.search(r"awk '/# BEGIN (.*)/,/# END .*mv \"\$OUT\" (\S+)", command, re.DOTALL):
            del self.files[f"{gone[2]}:# {{mark}} {gone[1]}"]
            return
        match = re.search(r"# BEGIN ([^\n]*)\n(.*)\n# END .*mv \"\$OUT\" (\S+)", command, re.DOTALL)
        if match is None:
            raise NotImplementedError(f"teach tests/support/model_host.py this block:\n{command}")
        self.files[f"{match[3]}:# {{mark}} {match[1]}"] = File(match[2].encode())

    def _script(self, script: str) -> list[str]:
        for pattern, effect in self._SCRIPTS.items():
            match = re.search(pattern, script, re.DOTALL)
            if match:
                effect(self, script, match)
                return self._looks(script)
        raise NotImplementedError(f"teach tests/support/model_host.py this script:\n{script}")

    def _status(self) -> str:
        """What the agent says: the gateway knows of every drain switch, and every model is served."""
        switches = self._fact_drain_switches()
        return json.dumps(
            {
                "time": 0,
                "instances": [
                    {
                        "group": group,
                        "phase": "ready",
                        "drain": {"reason": switches.get(group), "told": True},
                        "models": [{"name": name, "phase": "ready"} for name in models],
                    }
                    for group, models in self.models.items()
                ],
            }
        )

    def _looks(self, script: str) -> list[str]:
        """What agent and instances say to somebody who waits for them; nothing is being answered."""
        if "/api/ps" not in script:
            return []
        groups = re.findall(r'echo "(\S+) \$open', script)
        served = (json.dumps({"models": [{"name": name} for name in self.models[group]]}) for group in groups)
        return [self._status(), "0", *(f"{group} 0 {models}" for group, models in zip(groups, served, strict=True))]

    def _drain(self, script: str, match: re.Match[str]) -> None:
        for path in match[1].split():
            self.files.setdefault(path, File(match[2].encode()))

    def _give_back(self, script: str, match: re.Match[str]) -> None:
        self._do_rm(match[1].split())

    def _reboot(self, script: str, match: re.Match[str]) -> None:
        self.boots += 1
        self.kernel = self.boot_loader or self.kernels[-1]
        self.driver = upstream(self.packages.get(self.driver_package, "")) or None
        self.nouveau, self.smi_error = self.driver is None, None
        self.running = {name for name in self.running if name in self.enabled}

    def _stamp(self, script: str, match: re.Match[str]) -> None:
        inputs = re.findall(r"echo (\S+); cat \S+ 2>/dev/null", script)
        self.files[f"{STAMPS}/{match[1]}"] = File(self._digest(inputs).encode())
        for unit in re.findall(r"systemctl (?:re)?start (\S+)", script):
            self.running.add(unit)

    def _firewall(self, script: str, match: re.Match[str]) -> None:
        if STAMPS in script:
            self._stamp(script, re.search(rf"{STAMPS}/(\S+)\.new", script))  # type: ignore[arg-type]

    def _hold(self, script: str, match: re.Match[str]) -> None:
        names = match[1].split()
        self.held |= set(names)
        self.files[HOLDS] = File("\n".join(names).encode())

    def _unhold(self, script: str, match: re.Match[str]) -> None:
        self.held -= set(match[1].split())

    def _install(self, script: str, match: re.Match[str]) -> None:
        self.apt(match[1].split(), [])

    def _mark_boot(self, script: str, match: re.Match[str]) -> None:
        self.files[REBOOT_MARK] = File(f"boot-{self.boots}".encode())

    def _mark_kernel(self, script: str, match: re.Match[str]) -> None:
        self.files[REBOOT_MARK].content += f"\n{match[1]}".encode()

    def _release(self, script: str, match: re.Match[str]) -> None:
        self.files[f"/opt/ollama/{match[1]}/.archive-sha256"] = File(b"0" * 64)

    def _venv(self, script: str, match: re.Match[str]) -> None:
        self.files[f"/opt/flexi/chat/{match[1]}/.lock-sha256"] = File(b"0" * 64)

    def _chat_secrets(self, script: str, match: re.Match[str]) -> None:
        self.files[match[1]] = File(b"secrets", 600)
        self.files[CHAT_KEY_DIGEST] = File(b"f" * 64)

    def _health_key(self, script: str, match: re.Match[str]) -> None:
        for path in re.findall(r"mv -f '[^']+\.new' '([^']+)'", script):
            self.files[path] = File(b"key")

    def _psql(self, script: str, match: re.Match[str]) -> None:
        self.database = replace(self.database, **{match[1].lower(): True})

    def _remove_store(self, script: str, match: re.Match[str]) -> None:
        del self.stores[match[1].rsplit("/", 1)[1]]

    def _secret(self, script: str, match: re.Match[str]) -> None:
        self.files[match[1]] = File(self.stdin.encode(), 600)

    def _order(self, script: str, match: re.Match[str]) -> None:
        """certbot's deploy hook brings what came to HAProxy."""
        for path in ("/etc/letsencrypt/live/flexi/fullchain.pem", "/etc/haproxy/flexi/gateway.pem"):
            self.files[path] = File(b"ordered with " + self.files[match[1]].content, 600)
        self._stamp(script, re.search(rf"{STAMPS}/(\S+)\.new", script))  # type: ignore[arg-type]

    def _remove(self, script: str, match: re.Match[str]) -> None:
        for gone in re.findall(r"^remove (\S+)$", script, re.MULTILINE):
            for where in (self.files, self.directories, self.links):
                for path in [path for path in where if f"{path}/".startswith(f"{gone}/")]:
                    del where[path]  # type: ignore[attr-defined]

    def _nothing(self, script: str, match: re.Match[str]) -> None:
        """Checks, waits and what no fact can see."""

    _SCRIPTS: ClassVar[Mapping[str, Callable[[ModelHost, str, re.Match[str]], None]]] = {
        r"systemctl reboot": _reboot,
        r"flexi-firewall-rollback": _firewall,
        r"certbot certonly --config (\S+) >&2;": _order,
        r"umask 077; cat >\S+; mv -f \S+ (\S+)$": _secret,
        r"umask 077; echo FLEXI_PROOF=.* mv -f \S+ (\S+)$": _secret,
        rf"mv -f {STAMPS}/(\S+)\.new": _stamp,
        r"apt cannot install the driver": _nothing,
        r"apt-mark hold ([^;]+) 2>&1\)": _hold,
        r"apt-mark unhold ([^;]+) 2>&1\)": _unhold,
        r"install --no-install-recommends (\S+) \|\|": _install,
        rf"boot_id {REBOOT_MARK}": _mark_boot,
        r"systemctl is-system-running --wait": _nothing,
        rf"echo (\S+) >>{REBOOT_MARK}": _mark_kernel,
        r"version='([^']+)' wanted=": _release,
        r"Authorization: Bearer": _health_key,
        r"\nrelease=(\S+)\nrm -rf": _venv,
        r"WEBUI_SECRET_KEY=.*mv -f '[^']+' '([^']+)'\nfi": _chat_secrets,
        r"umask 027; cat >\S+; chgrp haproxy \S+; mv -f \S+ (\S+)$": _secret,
        r"^cat >(\S+)$": _secret,
        rf"for f in ({DRAIN_SWITCHES}[^;]*); do .*echo \"([^\"]+)\"": _drain,
        rf"rm -f ({DRAIN_SWITCHES}.*)": _give_back,
        rf"\nremove ({OLLAMA_HOMES}/\S+)": _remove_store,
        r"\nremove /": _remove,
        r"psql .*CREATE (ROLE|DATABASE|EXTENSION)": _psql,
        r"systemctl unmask --quiet": _nothing,
        r"flexi_chat\.webui\.schema (keep|back)": _nothing,
        r"apt-get -qq update|apt-cache madison|gpg --batch|\|\| \{ rm -f|/api/ps": _nothing,
    }

    def _simple(self, words: list[str]) -> None:
        program = words[0].rsplit("/", 1)[-1]
        effect = getattr(self, f"_do_{program.replace('-', '_')}", None)
        if effect is None:
            raise NotImplementedError(f"teach tests/support/model_host.py this command: {shlex.join(words)}")
        effect([word for word in words[1:] if word not in ("||", "true", "2>/dev/null")])

    def _do_apt_get(self, words: list[str]) -> None:
        names = [word for word in words if not word.startswith("-") and "::" not in word]
        if "install" in names:
            self.apt(names[names.index("install") + 1 :], words)

    def apt(self, names: Sequence[str], options: Sequence[str]) -> None:
        """Install packages and what they bring, the archive's version of each, which lifts their holds."""
        if any("=" in name for name in names):
            options = ["--upgrade"]
        queue = [name.split("=")[0] for name in names]
        while queue:
            name = queue.pop(0)
            if name not in self.packages or {"--allow-downgrades", "--upgrade"} & set(options):
                version = next((v for pattern, v in self.versions.items() if fnmatch(name, pattern)), "1")
                if self.packages.get(name) != version:
                    self.packages[name] = version
                    self.held.discard(name)
                    queue += self.brings.get(name, ())
                    self.kernels = kernel_releases(
                        f"linux-image-{k}" for k in (*self.kernels, *kernel_releases([name]))
                    )

    def _do_apt_mark(self, words: list[str]) -> None:
        if words[0] != "auto":
            raise NotImplementedError(f"teach tests/support/model_host.py apt-mark {words[0]}")
        assert set(words[1:]) <= set(self.packages), "apt-mark fails where a package is unknown"

    def _do_mkdir(self, words: list[str]) -> None:
        self.directories.setdefault(words[-1], File(mode=755))

    def _entries(self, path: str) -> list[File]:
        return [entry for entry in (self.files.get(path), self.directories.get(path)) if entry]

    def _do_chmod(self, words: list[str]) -> None:
        for entry in self._entries(words[-1]):
            entry.mode = int(words[-2].lstrip("0"))

    def _do_chown(self, words: list[str]) -> None:
        for entry in self._entries(words[-1]):
            user, _, group = words[-2].partition(":")
            entry.user, entry.group = user or entry.user, group or entry.group

    def _do_chgrp(self, words: list[str]) -> None:
        for entry in self._entries(words[-1]):
            entry.group = words[-2]

    def _do_ln(self, words: list[str]) -> None:
        self.links[words[-1]] = words[-2]

    def _do_mv(self, words: list[str]) -> None:
        source, target = words[-2:]
        for where in (self.files, self.links):
            if source in where:
                where[target] = where.pop(source)  # type: ignore[index,assignment]

    def _do_rm(self, words: list[str]) -> None:
        for path in words:
            self.files.pop(path, None)

    def _do_curl(self, words: list[str]) -> None:
        if "DELETE" in words:
            name = json.loads(words[words.index("-d") + 1])["model"]
            self.stores = {group: [m for m in models if m != name] for group, models in self.stores.items()}
            return
        self.files[words[words.index("-o") + 1]] = File(b"EB693B3035CD5710E231E123A4B469963BF863CC")

    def _do_flexi_certificate(self, words: list[str]) -> None:
        made = "made for " + " ".join(words[1:])
        self.files["/etc/haproxy/flexi/gateway.pem"] = File(
            (made if words[0] == "self-signed" else self.stdin).encode()
        )

    def _do_nft(self, words: list[str]) -> None:
        self.tables.add("inet flexi")

    def _do_hostnamectl(self, words: list[str]) -> None:
        self.hostname = words[-1]

    def _do_groupadd(self, words: list[str]) -> None:
        self.groups.append(words[-1])

    def _do_useradd(self, words: list[str]) -> None:
        options = dict(pairwise(words))
        self.users[words[-1]] = {
            "home": options.get("-d"),
            "shell": options.get("-s"),
            "group": options.get("-g"),
            "groups": options.get("-G", "").split(",") if "-G" in options else [],
            "comment": None,
            "uid": 1,
            "gid": 1,
            "lastlog": None,
            "password": "!",
        }

    def _do_systemctl(self, words: list[str]) -> None:
        verb, names = words[0], {word for word in words[1:] if not word.startswith("-")}
        if verb in ("start", "restart"):
            self.running |= names
        elif verb == "enable":
            self.enabled |= names
        elif verb in ("disable", "stop"):
            self.running -= names
            self.enabled -= names if verb == "disable" else set()


@contextmanager
def answering(model: ModelHost, patch: Any) -> Any:
    """While open, pyinfra's fake hosts are `model`: facts come from it, commands and uploads change it."""

    def get_fact(_host: Any, cls: type, *args: Any, **kwargs: Any) -> Any:
        named = {key: value for key, value in kwargs.items() if not key.startswith("_")}
        return model.fact(cls.__name__, *args, **named)

    def text(command: Any) -> str:
        return command if isinstance(command, str) else str(command.get_raw_value())

    def run_shell_command(_self: Any, command: Any, *_: Any, **given: Any) -> tuple[bool, CommandOutput]:
        model.stdin = given.get("_stdin") or ""
        return True, CommandOutput([OutputLine("stdout", line) for line in model.run(text(command))])

    def put_file(_self: Any, source: Any, remote: str, *_: Any, **__: Any) -> bool:
        if isinstance(source, BytesIO | StringIO):
            source.seek(0)
            content = source.read()
        else:
            content = Path(source).read_bytes()
        model.put(content.encode() if isinstance(content, str) else content, remote)
        return True

    with patch.context() as patched:
        patched.setattr("pyinfra.api.host.Host.get_fact", get_fact)
        patched.setattr(FakeConnector, "run_shell_command", run_shell_command)
        patched.setattr(FakeConnector, "put_file", put_file)
        patched.setattr("time.sleep", lambda _: None)
        yield
