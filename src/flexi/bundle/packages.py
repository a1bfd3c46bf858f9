"""Packages for a host without an archive: chosen and fetched by apt itself in a root of its own, then indexed.

apt verifies the archives' signatures here, where it can ask them. On the hosts the repository is trusted because it
came from the admin's machine, file by file by its digest, as everything else that flexi puts there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flexi.catalog.platforms import PinPlan
from flexi.configs.rendering import render
from flexi.errors import FlexiError
from flexi.plan.model.driver import DriverPlan
from flexi.terminal.bars import Bars

_URI = re.compile(r"'(?P<uri>[^']+)' (?P<name>\S+) (?P<size>\d+)")
"""A line of --print-uris; a digest may follow, or not."""

_KERNEL = re.compile(r"linux-image-(?:unsigned-)?([0-9].*)")
_EPOCH = re.compile(r"%3a|%3A")


@dataclass(frozen=True)
class Deb:
    """A package that apt chose: its name in apt's archive directory, its size in bytes, and where it comes from."""

    name: str
    size: int
    uri: str

    @property
    def file_name(self) -> str:
        """As in a distribution's pool, without the epoch, whose colon would have to be escaped."""
        package, version, rest = self.name.split("_", 2)
        return f"{package}_{_EPOCH.split(version)[-1]}_{rest}"


class PrivateApt:
    """apt in a directory of its own: other sources, no installed packages, the rest as on this machine.

    Nothing of this machine's own package state is read or written, and no root is needed.
    """

    def __init__(
        self, root: Path, sources: Mapping[str, str], pins: Sequence[PinPlan], architecture: str = "amd64"
    ) -> None:
        self.root = root.absolute()
        for directory in (
            *("etc/apt/sources.list.d", "etc/apt/preferences.d"),
            *("var/lib/apt/lists/partial", "var/lib/dpkg", "var/cache/apt/archives/partial"),
        ):
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        (self.root / "var/lib/dpkg/status").write_text("")
        for name, text in sources.items():
            (self.root / "etc/apt" / name).write_text(text, encoding="utf-8")
        (self.root / "etc/apt/preferences.d/flexi").write_text(
            render("driver/preferences.j2", pins=pins), encoding="utf-8"
        )
        # On the command line they outrank this machine's apt.conf.d, whose proxies and certificates still hold.
        settings = {
            "Dir": f"{self.root}/",
            "Dir::State::status": f"{self.root}/var/lib/dpkg/status",
            # This machine's keyrings: they have its distribution's keys, as a fresh host's have.
            "Dir::Etc::trustedparts": "/etc/apt/trusted.gpg.d/",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Default-Release": "",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self._options = [option for name, value in settings.items() for option in ("-o", f"{name}={value}")]

    @property
    def archives(self) -> Path:
        return self.root / "var/cache/apt/archives"

    def update(self) -> None:
        self._run("apt-get", ["update", "-qq"], "the repositories cannot be read")

    def names(self, pattern: str) -> list[str]:
        """Packages of the repositories whose names match a regular expression."""
        text = self._run("apt-cache", ["search", "--names-only", pattern], "the repositories cannot be searched")
        return [line.split(" ", 1)[0] for line in text.splitlines()]

    def depends(self, package: str) -> list[str]:
        """Names that a package depends on; empty where nobody has it."""
        arguments = ["depends", "--important", package]
        try:
            text = self._run("apt-cache", arguments, f"{package} cannot be looked up")
        except FlexiError:
            return []
        return [line.split(":", 1)[1].strip() for line in text.splitlines() if line.strip().startswith("Depends:")]

    def choose(self, packages: Sequence[str]) -> list[Deb]:
        """Everything that an installation of `packages` takes on a host that has nothing. FlexiError in apt's words."""
        empty = self.root / "empty"
        (empty / "partial").mkdir(parents=True, exist_ok=True)
        arguments = ["install", "-y", "-qq", "--print-uris", "-o", f"Dir::Cache::archives={empty}/", *packages]
        text = self._run("apt-get", arguments, f"apt cannot choose packages for {', '.join(packages)}")
        lines = [found for line in text.splitlines() if (found := _URI.match(line))]
        return [Deb(found["name"], int(found["size"]), found["uri"]) for found in lines]

    def fetch(self, packages: Sequence[str], debs: Sequence[Deb], bars: Bars, what: str) -> None:
        """Download what was chosen into `archives`; what is there is kept, what is half there continued."""
        bar = bars.bar(what, sum(deb.size for deb in debs))
        read, write = os.pipe()
        command = self._command("apt-get", ["install", "-y", "-qq", "--download-only", "-o", f"APT::Status-Fd={write}"])
        with subprocess.Popen(
            [*command, *packages],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=(write,),
            env=_environment(),
        ) as apt:
            os.close(write)
            with os.fdopen(read, encoding="utf-8", errors="replace") as told:
                # dlstatus:<number>:<percent>:<words>, see README.progress-reporting of apt
                for line in told:
                    fields = line.split(":", 3)
                    if fields[0] == "dlstatus":
                        bar.restart(int(sum(deb.size for deb in debs) * float(fields[2]) / 100))
            words = apt.stdout.read() if apt.stdout else ""
        if apt.returncode != 0:
            raise FlexiError(
                f"apt cannot fetch {what}: {_errors(words)}. What is there stays: run it again to continue"
            )
        for deb in debs:
            # What lies on this machine apt uses in its place (sources.list(5), file).
            place = self.archives / deb.name
            if not place.exists() and deb.uri.startswith("file:"):
                shutil.copyfile(unquote(urlsplit(deb.uri).path), place)
        bar.restart(sum(deb.size for deb in debs))
        bar.finished(f"{len(debs)} packages")

    def _run(self, program: str, arguments: Sequence[str], failing: str) -> str:
        done = subprocess.run(
            self._command(program, arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
        )
        if done.returncode != 0:
            raise FlexiError(f"{failing}: {_errors(done.stderr + done.stdout)}")
        return done.stdout

    def _command(self, program: str, arguments: Sequence[str]) -> list[str]:
        if shutil.which(program) is None:
            raise FlexiError(
                f"{program} is missing on this machine: a bundle's packages are fetched on a Debian or Ubuntu"
            )
        return [program, *self._options, *arguments]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "APT_CONFIG"} | {"LC_ALL": "C.UTF-8"}


def _errors(text: str, lines: int = 6) -> str:
    """apt's errors, or else its last words, in one line."""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in said if line.startswith(("E:", "W:"))] or said
    return " ".join(errors[-lines:]) or "no reason given"


def kernels(apt: PrivateApt, driver: DriverPlan, given: Sequence[str]) -> list[str]:
    """Releases of the kernels that a bundle has the driver's modules for: the newest of the flavour, and `given` ones.

    Where the newest has none (an ended branch), the newest of its series that has. FlexiError for a given one without.
    """
    before, after = driver.module_package.split("{release}")
    found = [name.removeprefix(before).removesuffix(after) for name in apt.names(f"^{re.escape(before)}[0-9]")]
    for release in given:
        if release not in found:
            close = ", ".join(sorted(found, key=_version)[-3:]) or "no kernel"
            package = driver.module_package.format(release=release)
            raise FlexiError(f"no repository has {package}: there are modules for {close}")
    meta = next((name for name in driver.kernel_packages if name.startswith("linux-image-")), "")
    newest = [match[1] for name in apt.depends(meta) if (match := _KERNEL.fullmatch(name))]
    flavour = newest[0].rpartition("-")[2] if newest else ""
    same = [r for r in found if newest and r.split("-")[0] == newest[0].split("-")[0] and r.endswith(f"-{flavour}")]
    default = [release for release in newest if release in found] or sorted(same, key=_version)[-1:]
    return list(dict.fromkeys([*default, *given]))


def _version(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", release)]


def index(repository: Path, suite: str, debs: Sequence[str]) -> list[str]:
    """Write `<suite>/Packages` and `Release` for the files `debs` (relative to `repository`); their relative paths."""
    stanzas = []
    for deb in sorted(debs):
        path = repository / deb
        done = subprocess.run(["dpkg-deb", "--field", str(path)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FlexiError(f"{path} is no Debian package: remove it and run this again")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        fields = f"Filename: {deb}\nSize: {path.stat().st_size}\nSHA256: {digest}\n"
        stanzas.append(done.stdout.rstrip("\n") + "\n" + fields)
    packages = "\n".join(stanzas).encode()
    directory = repository / suite
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "Packages").write_bytes(packages)
    release = (
        f"Origin: flexi\nLabel: flexi bundle\nSuite: {suite}\nDate: {formatdate(usegmt=True)}\n"
        f"Architectures: amd64\nSHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    )
    (directory / "Release").write_text(release, encoding="ascii")
    return [f"{suite}/Packages", f"{suite}/Release"]
