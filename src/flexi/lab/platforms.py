"""The distributions that the lab's machines present themselves as: what differs between them on the base image.

One base image serves all; a platform is a thin layer on it, with its own `os-release`, apt sources and kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .topology import SERVICES_ADDRESS
from .vendor import debian, repository, ubuntu
from .vendor.stub import Stub

UNATTENDED = "etc/apt/apt.conf.d/50unattended-upgrades"

# What the packages of each distribution's unattended-upgrades trust.
_UBUNTU_UPGRADES = """Unattended-Upgrade::Allowed-Origins {
  "${distro_id}:${distro_codename}";
  "${distro_id}:${distro_codename}-security";
};
"""
_DEBIAN_UPGRADES = """Unattended-Upgrade::Origins-Pattern {
  "origin=Debian,codename=${distro_codename},label=Debian";
  "origin=Debian,codename=${distro_codename},label=Debian-Security";
  "origin=Debian,codename=${distro_codename}-security,label=Debian-Security";
};
"""


@dataclass(frozen=True)
class Platform:
    """A release of a distribution, named as in the site file."""

    name: str
    distribution: repository.Distribution
    codename: str
    os_release: str
    kernel: tuple[Stub, ...]
    """Installed on a fresh machine."""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def suites(self) -> list[str]:
        """Of the distribution's archive, those that a fresh machine has among its sources."""
        return [self.codename, f"{self.codename}-security"]

    @property
    def keyring(self) -> str:
        """Path on the machine, without the leading stroke."""
        return f"usr/share/keyrings/lab-{self.distribution.name}.gpg"

    @property
    def base_url(self) -> str:
        return f"http://{SERVICES_ADDRESS}/{self.distribution.name}"

    @property
    def sources(self) -> str:
        components = " ".join(self.distribution.components)
        return "".join(
            f"deb [signed-by=/{self.keyring}] {self.base_url} {suite} {components}\n" for suite in self.suites
        )


def _ubuntu(release: ubuntu.Release, title: str) -> Platform:
    point, name = title.split(" ", 1)
    description = f"Ubuntu {point} LTS"
    return Platform(
        f"ubuntu-{release.number}",
        repository.UBUNTU,
        release.codename,
        f'PRETTY_NAME="{description}"\nNAME="Ubuntu"\nVERSION_ID="{release.number}"\n'
        f'VERSION="{point} LTS ({name})"\nVERSION_CODENAME={release.codename}\nID=ubuntu\nID_LIKE=debian\n'
        f"UBUNTU_CODENAME={release.codename}\n",
        tuple(ubuntu.kernel(release.kernel, release.codename)),
        {
            "etc/lsb-release": f"DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE={release.number}\n"
            f'DISTRIB_CODENAME={release.codename}\nDISTRIB_DESCRIPTION="{description}"\n',
            # Ubuntu has sbin on everybody's path, Debian only on root's.
            "etc/environment": 'PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"\n',
            UNATTENDED: _UBUNTU_UPGRADES,
        },
    )


_DEBIAN_12 = Platform(
    "debian-12",
    repository.DEBIAN,
    "bookworm",
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nVERSION="12 (bookworm)"\n'
    "VERSION_CODENAME=bookworm\nID=debian\n",
    tuple(debian.kernel(debian.KERNEL, debian.MAIN)),
    {UNATTENDED: _DEBIAN_UPGRADES},
)

PLATFORMS: Mapping[str, Platform] = MappingProxyType(
    {
        platform.name: platform
        for platform in (
            _ubuntu(ubuntu.JAMMY, "22.04.5 Jammy Jellyfish"),
            _ubuntu(ubuntu.NOBLE, "24.04.3 Noble Numbat"),
            _DEBIAN_12,
        )
    }
)
