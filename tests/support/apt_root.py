"""apt with a system of its own in a directory: it says what it would install, and touches nothing of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from flexi.lab.platforms import PLATFORMS
from flexi.lab.vendor import archives, repository

TOOLS = ("apt-get", "apt-ftparchive", "dpkg-deb", "gpg", "gpgv")


class Apt:
    """apt with a system of its own in a directory: reads repositories from files, simulates, touches nothing else."""

    def __init__(self, directory: Path, repositories: Path, platform: str = "ubuntu-22.04") -> None:
        self._directory = directory
        self._repositories = repositories
        self._platform = PLATFORMS[platform]
        for part in ("state/lists/partial", "cache/archives/partial", "etc/trusted.gpg.d"):
            (directory / part).mkdir(parents=True)
        self.preferences = directory / "etc/preferences.d"
        self.sources = directory / "etc/sources.list.d"
        for parts in (self.preferences, self.sources):
            parts.mkdir()
        # What every Debian has; the stubs need these.
        status = "".join(
            f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 30\n"
            "Maintainer: x\nDescription: x\n\n"
            for name in ("kmod", "lsb-release", "python3")
        )
        (directory / "status").write_text(status)
        # In place of this machine's own configuration, which is not ours.
        options = {
            "Dir::State": f"{directory}/state",
            "Dir::State::status": f"{directory}/status",
            "Dir::Cache": f"{directory}/cache",
            "Dir::Etc": f"{directory}/etc",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "1",
        }
        self.config = directory / "apt.conf"
        self.config.write_text("".join(f'{key} "{value}";\n' for key, value in options.items()))
        self._name(archives.TODAY)
        # What apt reads of today's archives is the same for every test, and reading it is most of its time.
        lists, read = directory / "state/lists", repositories.with_name(f"{repositories.name}-{platform}-read")
        if read.exists():
            shutil.copytree(read, lists, symlinks=True, dirs_exist_ok=True)
        else:
            self.update()
            shutil.copytree(lists, read, symlinks=True)

    def switch(self, archive: str) -> None:
        """From now on the archives are as on that day."""
        self._name(archive)
        self.update()

    def _name(self, archive: str) -> None:
        """Make the archives of that day apt's sources."""
        here, distribution = self._repositories, self._platform.distribution
        cuda = here / repository.cuda_path(self._platform.name.replace("-", "").replace(".", ""))
        (self._directory / "etc/sources.list").write_text(
            "".join(
                f"deb [arch=amd64 signed-by={here / distribution.keyring}] "
                f"file:{here / repository.ARCHIVES / archive / distribution.name} {suite} "
                f"{' '.join(distribution.components)}\n"
                for suite in self._platform.suites
            )
            + f"deb [arch=amd64 signed-by={cuda / repository.CUDA_KEY}] file:{cuda} /\n"
        )

    def update(self) -> None:
        done = self.run("update")
        assert done.returncode == 0, done.stderr
        assert "W:" not in done.stderr, done.stderr

    def pin_nvidia_away(self) -> None:
        """The part of flexi's pins that keeps NVIDIA's own driver out."""
        pin = "Package: nvidia-* libnvidia-* libcuda1\nPin: release l=NVIDIA CUDA\nPin-Priority: -1\n"
        (self.preferences / "pin").write_text(pin)

    def pretend_installed(self, versions: Mapping[str, str], held: Collection[str] = ()) -> None:
        """Make packages installed, with the relations that the archive of the moment says they have."""
        with (self._directory / "status").open("a") as status:
            for name, version in versions.items():
                shown = self.run("show", f"{name}={version}", program="apt-cache").stdout
                fields = [line for line in shown.splitlines() if not line.startswith(("Filename:", "Size:"))]
                assert fields, name
                state = f"Status: {'hold' if name in held else 'install'} ok installed"
                status.write("\n".join([fields[0], state, *fields[1:]]).strip() + "\n\n")

    def run(self, *arguments: str, program: str = "apt-get") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, "-q", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"LC_ALL": "C", "APT_CONFIG": str(self.config)},
        )

    def would_install(self, *packages: str) -> dict[str, str]:
        """Versions by package of `apt-get install --simulate`; empty where apt refuses."""
        return self.would("install", *packages)

    def would(self, *command: str) -> dict[str, str]:
        """Versions by package that an apt-get command would unpack; empty where apt refuses."""
        done = self.run(*command, "--simulate", "--no-install-recommends")
        words = [line.split() for line in done.stdout.splitlines() if line.startswith("Inst ")]
        # `Inst name (new …)`, or `Inst name [old] (new …)`.
        new = {word[1]: next(part for part in word[2:] if part.startswith("(")).strip("([]") for word in words}
        return new if done.returncode == 0 else {}
