"""A lab: machines, their network and the services beside them, brought up and taken down as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flexi.errors import FlexiError, InputError
from flexi.keys.store import KeysStore
from flexi.lab import cache, cgroups, image, network, processes, services, ssh, wheels
from flexi.lab.machine import Machine
from flexi.lab.naming import DEFAULT, Naming
from flexi.lab.ollama_sim import archive
from flexi.lab.platforms import PLATFORMS
from flexi.lab.progress import Progress, Silent
from flexi.lab.requirements import require_programs, require_root
from flexi.lab.topology import ADMIN, CONSUMER, MACHINES, OLLAMA_VERSIONS, STUDENT
from flexi.lab.vendor import archives, repository
from flexi.paths import INVENTORY
from flexi.site import load_site
from flexi.site.keys import keys_path

SERVICES_TIMEOUT_S = 30.0
_CONFIG_LINE = re.compile(r"^(\s*config:\s*)\S+", re.MULTILINE)


@dataclass(frozen=True)
class MachineStatus:
    """What `flexi lab status` says about a machine."""

    name: str
    address: str
    platform: str
    state: str
    """`running`, `booting` (or not reachable), `off`, `missing`."""
    gpus: str


class Lab:
    """The lab called `name`. Making the object touches nothing, so a lab from another process can be used too."""

    def __init__(self, name: str = DEFAULT) -> None:
        self.name = name
        self.naming = Naming(name)
        self.directory = self.naming.directory
        self.machines = tuple(Machine(self.naming, spec) for spec in MACHINES)

    # -- up and down --------------------------------------------------------------------------------------------

    def up(
        self,
        *,
        more: Sequence[str] = (),
        fresh: bool = False,
        ollama_archive: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Build what is missing and start what does not run; returns when every machine can be reached over SSH.

        Safe to repeat and to interrupt. `more` names machines that a lab has only where somebody asks for them; they
        then belong to it. `fresh` discards the machines first; `ollama_archive` puts a real release in the place of
        the simulated one.

        Raises:
            InputError: not root, programs missing, or the archive cannot be read.
            FlexiError: a step failed, in words.
        """
        require_root()
        require_programs()
        if ollama_archive is not None and not os.access(ollama_archive, os.R_OK):
            raise InputError(f"--ollama-archive {ollama_archive}: no such file, or not readable")
        asked = [self.machine(name) for name in more]
        report = progress or Silent()
        with self._locked():
            if fresh:
                with report.step("Take the old lab down"):
                    self._down()
            with report.step("Vendor packages"):
                days = archives.everything()
                vendor = cache.entry(
                    "vendor", repository.content_hash(days), lambda path: repository.build_repositories(days, path)
                )
                held = [cache.hold(vendor)]
            machines = [m for m in self.machines if m.spec.by_default or m.exists or m in asked]
            with report.step("Base image"):
                base = image.base_image()
                held.append(cache.hold(base))
                names = {machine.spec.platform for machine in machines}
                layers = {name: image.layer(PLATFORMS[name], base, vendor) for name in sorted(names)}
                held += [cache.hold(layer) for layer in layers.values()]
            with report.step("Network"):
                number = network.create(self.naming, [machine.spec for machine in self.machines])
            self.directory.mkdir(parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            with report.step("Repositories and registry"):
                self._publish(vendor, ollama_archive)
                self._start_services()
            with report.step("Machines"):
                images = {name: (layer, base) for name, layer in layers.items()}
                self._start_machines(machines, images, vendor, number)
            self._write_site()
            self._write_consumer_key()
            for descriptor in held:
                os.close(descriptor)

    def down(self) -> None:
        """End the lab and remove everything of it, whatever there is: machines, network, files, its API key."""
        require_root()
        with self._locked():
            self._down()

    def _down(self) -> None:
        pids = [machine.supervisor for machine in self.machines] + [machine.power for machine in self.machines]
        known = [process for process in [*pids, self._services] if process is not None]
        # Twice: what a supervisor started while it was being ended is found by its namespace.
        left = processes.end([*known, *network.processes_inside(self.naming)])
        left += processes.end(network.processes_inside(self.naming))
        if left:
            raise FlexiError(f"these processes of the lab do not end: {', '.join(str(p.pid) for p in left)}")
        network.remove(self.naming)
        cgroups.remove(self.naming.router)
        self._forget_consumer_key()
        if self.directory.exists():
            shutil.rmtree(self.directory)
        with contextlib.suppress(OSError):
            self.directory.parent.rmdir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with cache.locked(f"lab-{self.naming.id}", wait=False) as free:
            if not free:
                raise InputError(f"another flexi command is just building or removing the lab '{self.name}'")
            yield

    # -- parts --------------------------------------------------------------------------------------------------

    def _publish(self, vendor: Path, ollama_archive: Path | None) -> None:
        """Lay out what the HTTP server shows; a server that shows something else is ended."""
        www = self.directory / services.WWW
        wanted = {www / "cuda": vendor / "cuda", www / "snapshots": vendor / repository.ARCHIVES}
        wanted |= _archive(www, vendor, self.shown_archive() or archives.TODAY)
        wanted |= {www / "pypi": wheels.house()}
        for version in OLLAMA_VERSIONS:
            wanted |= _release(www / "ollama" / f"v{version}", version, ollama_archive)
        if {link: link.readlink() for link in services.published(www)} == wanted:
            return
        processes.end([process for process in [self._services] if process is not None])
        shutil.rmtree(www, ignore_errors=True)
        for link, target in wanted.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)

    def archive(self, name: str) -> None:
        """Let the distributions' archives be as on another day (`archives.DAYS`); machines that run see it with
        their next `apt-get update`. Each day's archives also stay at `/snapshots/<name>/<distribution>`.

        InputError for a day that there is none of, FlexiError where the lab is not up.
        """
        if name not in archives.DAYS:
            raise InputError(f"the lab has no archive '{name}'; it has {', '.join(archives.DAYS)}")
        require_root()
        with self._locked():
            www = self.directory / services.WWW
            if self.shown_archive() is None:
                raise FlexiError(f"the lab '{self.name}' is not up: ./flexi lab up")
            vendor = (www / "snapshots").readlink().parent
            for link, target in _archive(www, vendor, name).items():
                draft = link.with_name(f".{link.name}")
                draft.unlink(missing_ok=True)
                draft.symlink_to(target)
                draft.replace(link)

    def shown_archive(self) -> str | None:
        """Which day's archives the lab's distributions show; None where the lab is not up."""
        link = self.directory / services.WWW / repository.UBUNTU.name
        return link.readlink().parent.name if link.is_symlink() else None

    @property
    def _services(self) -> processes.Process | None:
        return processes.read(self.directory / services.PID_FILE)

    def _start_services(self) -> None:
        ready = self.directory / services.READY_FILE
        log = self.directory / "services.log"
        if self._services is None:
            ready.unlink(missing_ok=True)
            command = [sys.executable, "-m", "flexi.lab.services", str(self.directory)]
            processes.start_detached([*network.inside(self.naming.namespace(network.SERVICES_NAME)), *command], log)
        deadline = time.monotonic() + SERVICES_TIMEOUT_S
        while not ready.exists():
            if time.monotonic() > deadline:
                words = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise FlexiError(f"the lab's repositories do not start: {' '.join(words)}")
            time.sleep(0.05)

    def _start_machines(
        self, machines: Sequence[Machine], images: Mapping[str, Sequence[Path]], vendor: Path, number: int
    ) -> None:
        admin_key = ssh.make_key(self.directory / ssh.KEY, f"{ADMIN}@flexi-{self.name}")
        for machine in machines:
            if machine.supervisor is None:
                machine.create(images[machine.spec.platform], vendor, admin_key)
        specs = [machine.spec for machine in machines]
        host_keys = [(machine.spec, machine.host_key) for machine in machines]
        (self.directory / ssh.CONFIG).write_text(ssh.config(self.directory, specs, number), encoding="utf-8")
        (self.directory / ssh.KNOWN_HOSTS).write_text(ssh.known_hosts(host_keys, number), encoding="ascii")
        with ThreadPoolExecutor(len(machines)) as pool:
            list(pool.map(_start_and_wait, machines))

    # -- what others need ---------------------------------------------------------------------------------------

    @property
    def ssh_config(self) -> Path:
        return self.directory / ssh.CONFIG

    @property
    def site_file(self) -> Path:
        """The site file that describes this lab: inventory/lab.yaml, or for another lab than `lab` a copy."""
        return (INVENTORY if self.name == DEFAULT else self.directory / "inventory") / "lab.yaml"

    def machine(self, name: str) -> Machine:
        """The machine called `name`; InputError where there is none."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise InputError(f"the lab has no machine '{name}'; it has {', '.join(m.name for m in self.machines)}")

    def env(self) -> dict[str, str]:
        """What a client of the lab needs. FlexiError where the lab is not up."""
        number = network.uplink_number(self.naming)
        key = self._consumer_key_file
        if number is None or not key.exists():
            raise FlexiError(f"the lab '{self.name}' is not up: ./flexi lab up")
        outside = ssh.outside_address(self.machine("gateway").spec, number)
        found = {"FLEXI_API_URL": f"http://{outside}", "FLEXI_API_KEY": key.read_text(encoding="ascii").strip()}
        chat = load_site(self.site_file).content.chat
        if chat:
            found["FLEXI_CHAT_URL"] = f"http://{outside}:{chat.port}"
        if self.chat_password.exists():
            found |= {"FLEXI_CHAT_USER": STUDENT, "FLEXI_CHAT_PASSWORD": self.chat_password.read_text("ascii").strip()}
        return found

    def status(self) -> list[MachineStatus]:
        number = network.uplink_number(self.naming)
        return [
            MachineStatus(
                name=machine.name,
                address="" if number is None else ssh.outside_address(machine.spec, number),
                platform=machine.spec.platform,
                state=_state(machine),
                gpus=f"{machine.spec.gpu_count}x {machine.spec.gpu.name}" if machine.spec.gpu else "",
            )
            for machine in self.machines
            if machine.spec.by_default or machine.exists
        ]

    def _write_site(self) -> None:
        """Every lab but `lab` gets copies of inventory/lab.{yaml,py} that differ in the ssh_config's path only, and of
        what these name."""
        if self.name == DEFAULT:
            return
        self.site_file.parent.mkdir(exist_ok=True)
        text = (INVENTORY / "lab.yaml").read_text(encoding="utf-8")
        changed, count = _CONFIG_LINE.subn(rf"\g<1>../{ssh.CONFIG}", text)
        if count != 1:
            raise FlexiError(f"{INVENTORY / 'lab.yaml'}: expected exactly one line 'config:' below 'ssh:'")
        self.site_file.write_text(changed, encoding="utf-8")
        shutil.copyfile(INVENTORY / "lab.py", self.site_file.with_suffix(".py"))
        beside = self.site_file.with_suffix("")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(INVENTORY / "lab", beside)

    @property
    def chat_password(self) -> Path:
        """The file with the password of the chat's test account; there once somebody has made the account."""
        return self.directory / "chat.password"

    @property
    def _consumer_key_file(self) -> Path:
        return self.directory / "consumer.key"

    def _write_consumer_key(self) -> None:
        if self._consumer_key_file.exists():
            return
        self._forget_consumer_key()
        draft = self._consumer_key_file.with_suffix(".new")
        draft.touch(mode=0o600)
        with KeysStore(load_site(self.site_file)) as store:
            draft.write_text(store.add(CONSUMER, purpose="the lab's own requests") + "\n", encoding="ascii")
        draft.rename(self._consumer_key_file)

    def _forget_consumer_key(self) -> None:
        """Take the lab's own consumer out of the keys file: nobody has its key any more."""
        path = keys_path(self.site_file)
        if not path.exists():
            return
        consumers = json.loads(path.read_text(encoding="utf-8")).get("consumers", [])
        others = [consumer for consumer in consumers if consumer.get("name") != CONSUMER]
        if others:
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps({"consumers": others}, indent=2) + "\n", encoding="utf-8")
            draft.rename(path)
        else:
            path.unlink()


def _archive(www: Path, vendor: Path, name: str) -> dict[Path, Path]:
    """Links that show the distributions' archives of the day `name`."""
    day = vendor / repository.ARCHIVES / name
    return {www / distribution.name: day / distribution.name for distribution in repository.DISTRIBUTIONS}


def _release(directory: Path, version: str, real_archive: Path | None) -> dict[Path, Path]:
    """Links that make `directory` an Ollama release: the simulated one, or a real archive with its checksum."""
    if real_archive is None:
        recipe = hashlib.sha256(archive.zipapp(version) + Path(archive.__file__).read_bytes())

        def build(path: Path) -> None:
            archive.build_archive(path, version)

        built = cache.entry(f"ollama-{version}", recipe.hexdigest()[:16], build)
        return {directory / name: built / name for name in (archive.ARCHIVE, archive.CHECKSUMS)}
    with real_archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def write_checksums(path: Path) -> None:
        (path / archive.CHECKSUMS).write_text(f"{digest}  ./{archive.ARCHIVE}\n", encoding="ascii")

    checksums = cache.entry("checksums", digest[:16], write_checksums)
    return {
        directory / archive.ARCHIVE: real_archive.resolve(),
        directory / archive.CHECKSUMS: checksums / archive.CHECKSUMS,
    }


def _start_and_wait(machine: Machine) -> None:
    machine.start()
    machine.wait_until_reachable()


def _state(machine: Machine) -> str:
    if not machine.directory.exists():
        return "missing"
    if machine.supervisor is None:
        return "off"
    return "running" if machine.run("true").status == 0 else "booting"
