"""The base image: what a freshly installed server has, made from this machine's own apt sources by mmdebstrap.

A platform's layer on it, an overlay's upper directory, makes it present itself as that distribution, whatever the
sources are.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from flexi.errors import FlexiError

from . import cache, processes, topology
from .gpu_sim.bundle import zipapp
from .platforms import Platform
from .vendor import archives, repository

# What Ubuntu's server installation has and the roles rely on or configure, and PHP for the stub of a Moodle. Not
# HAProxy: a role installs that.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "systemd-timesyncd",
    "libpam-systemd",
    "dbus",
    "openssh-server",
    "sudo",
    "python3",
    "apt-utils",
    "ca-certificates",
    "curl",
    "gpg",
    "iproute2",
    "kmod",
    "lsb-release",
    "needrestart",
    "netbase",
    "nftables",
    "php-cli",
    "procps",
    "unattended-upgrades",
    "zstd",
)
APT_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
LOCAL_AUTHORITIES = Path("/usr/local/share/ca-certificates")

ROOT = "root"
"""The image itself, inside its cache entry, and a platform's layer inside its own."""
PREFERENCES = "etc/apt/preferences.d/00-lab-real-archive"

FILES: dict[str, str] = {
    # The default user of a cloud image: sudo without a password, keys only.
    f"etc/sudoers.d/{topology.ADMIN}": f"{topology.ADMIN} ALL=(ALL) NOPASSWD:ALL\n",
    "etc/ssh/sshd_config.d/50-lab.conf": "PasswordAuthentication no\nPermitRootLogin no\nUseDNS no\n",
    # As a small server image: translations of package descriptions would be most of `apt-get update`.
    "etc/apt/apt.conf.d/90-lab": 'Acquire::Languages "none";\n',
    # A container may not set the clock, so the daemon runs without that right; the host keeps the time.
    "etc/systemd/system/systemd-timesyncd.service.d/lab.conf": (
        "[Unit]\nConditionVirtualization=\nConditionCapability=\n"
        "[Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\n"
    ),
    "etc/systemd/system/flexi-lab-boot.service": (
        "[Unit]\nDescription=Simulated kernel: load the NVIDIA modules that this boot finds\n"
        "DefaultDependencies=no\nBefore=sysinit.target systemd-journald.service\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/lib/flexi-lab/boot\n"
        "[Install]\nWantedBy=sysinit.target\n"
    ),
}

# Upgrades start when a test starts them, not at a time of apt's choosing: everything else about them is real.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer")

_FINISH = f"""set -e
export DEBIAN_FRONTEND=noninteractive
useradd --uid 1000 --create-home --shell /bin/bash --groups sudo {topology.ADMIN}
passwd --quiet --lock {topology.ADMIN}
systemctl --quiet enable flexi-lab-boot.service
systemctl --quiet mask {" ".join(MASKED)}
systemctl --quiet set-default multi-user.target
rm -f /etc/ssh/ssh_host_*
update-ca-certificates >/dev/null 2>&1
dpkg-divert --quiet --local --rename --add /usr/lib/os-release
"""


def build(from_sources: tuple[str, str], directory: Path) -> None:
    """Make the image in `directory`/root. FlexiError with mmdebstrap's words where that fails."""
    suite, sources = from_sources
    root = directory / ROOT
    source_file = directory / "host.sources"
    source_file.write_text(sources, encoding="utf-8")
    command = [
        "mmdebstrap",
        "--variant=minbase",
        "--mode=root",
        f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        # The package lists stay, so that a machine's first `apt-get update` has nothing to download.
        "--skip=cleanup/apt/lists,cleanup/reproducible/machine-id",
        suite,
        str(root),
        str(source_file),
    ]
    # In namespaces of its own: whatever ends this command, no mount and no process of mmdebstrap stays behind.
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=processes.die_with_parent,
    )
    if done.returncode != 0:
        raise FlexiError("the base image could not be built; mmdebstrap says:\n" + _tail(done.stdout + done.stderr))
    _customise(root)


def _write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _customise(root: Path) -> None:
    _write(root, FILES)
    (root / f"etc/sudoers.d/{topology.ADMIN}").chmod(0o440)
    boot = root / "usr/lib/flexi-lab/boot"
    boot.parent.mkdir(parents=True)
    boot.write_bytes(zipapp("kernel", "main()"))
    boot.chmod(0o755)
    # Behind a proxy that opens TLS, machines need the authorities that this machine trusts.
    for certificate in LOCAL_AUTHORITIES.glob("*.crt"):
        shutil.copy(certificate, root / LOCAL_AUTHORITIES.relative_to("/"))
    done = subprocess.run(["chroot", str(root), "sh", "-c", _FINISH], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FlexiError("the base image could not be finished:\n" + _tail(done.stdout + done.stderr))
    for leftover in ("etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/lib/dbus/machine-id"):
        (root / leftover).unlink(missing_ok=True)


def recipe_hash(sources: tuple[str, str]) -> str:
    """Changes with everything that goes into the image, but for what the archives hold on the day."""
    authorities = [path.read_text() for path in sorted(LOCAL_AUTHORITIES.glob("*.crt"))]
    recipe = [sources, authorities, PACKAGES, FILES, _FINISH]
    digest = hashlib.sha256(json.dumps(recipe).encode() + zipapp("kernel", "main()") + Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


def base_image() -> Path:
    """Cache entry of the base image for this machine's sources; built where it is missing."""
    sources = host_sources()
    return cache.entry("base", recipe_hash(sources), lambda directory: build(sources, directory))


def layer(platform: Platform, base: Path, vendor: Path) -> Path:
    """Cache entry of the platform's layer on the base image; built where it is missing."""
    files = _layer_files(platform, re.findall(r"^URIs:\s*(.*)$", host_sources()[1], re.MULTILINE))
    recipe = [base.name, files, repository.content_hash({"": platform.kernel}), _KERNELS]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    return cache.entry(
        f"layer-{platform.name}", digest, lambda directory: _build_layer(platform, files, base, vendor, directory)
    )


def _layer_files(platform: Platform, real_archives: Sequence[str]) -> dict[str, str]:
    """What the layer has beside the kernel."""
    names = sorted({stub.name for stub in archives.packages(archives.TODAY)})
    hosts = sorted({host for uris in real_archives for uri in uris.split() if (host := urlsplit(uri).hostname)})
    # Where this machine's archive has packages of a stub's name, such as Debian's kernel, machines take the stub.
    pins = [f'Package: {" ".join(names)}\nPin: origin "{host}"\nPin-Priority: -1\n' for host in hosts]
    return {
        "usr/lib/os-release": platform.os_release,
        f"etc/apt/sources.list.d/lab-{platform.distribution.name}.list": platform.sources,
        PREFERENCES: "\n".join(pins),
        **platform.files,
    }


_KERNELS = """set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
chroot "$4" sh -c 'dpkg --install /tmp/lab/*.deb && rm -r /tmp/lab' >/dev/null
"""


def _build_layer(platform: Platform, files: Mapping[str, str], base: Path, vendor: Path, directory: Path) -> None:
    upper, work, merged = (directory / name for name in (ROOT, "work", "merged"))
    for part in (upper, work, merged):
        part.mkdir()
        part.chmod(0o755)
    _write(upper, files)
    debs = upper / "tmp/lab"
    debs.mkdir(parents=True)
    for stub in platform.kernel:
        shutil.copy(vendor / repository.deb_path(stub), debs)
    for path in upper.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (upper / "tmp").chmod(0o1777)
    places = [str(path) for path in (base / ROOT, upper, work, merged)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _KERNELS, "sh", *places], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise FlexiError(f"the image of {platform.name} could not be made:\n" + _tail(done.stdout + done.stderr))


def host_sources() -> tuple[str, str]:
    """The host's release and its own distribution's apt sources, without third parties' (their keys stay here).

    FlexiError on a machine that is not a Debian or has no source for its release.
    """
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line
    )
    suite = release.get("VERSION_CODENAME", "").strip('"')
    files = []
    for place in APT_SOURCES:
        files += sorted(place.glob("*")) if place.is_dir() else [place] if place.exists() else []
    stanzas = []
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix == ".list":
            stanzas += [stanza for line in text.splitlines() if (stanza := _one_line_source(line))]
        elif file.suffix == ".sources":
            stanzas += re.split(r"\n\s*\n", _without_comments(text))
    own = [stanza.strip() for stanza in stanzas if suite and _is_own(stanza, suite)]
    if not own:
        raise FlexiError(
            "no apt source for this machine's own release: the lab needs Debian or Ubuntu with apt sources"
        )
    return suite, "\n\n".join(own) + "\n"


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def _one_line_source(line: str) -> str | None:
    """A `deb` line of sources.list in the newer form."""
    match = re.fullmatch(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+?)\s*(?:#.*)?", line.strip())
    if match is None:
        return None
    options, uri, suite, components = match.groups()
    signed = re.search(r"signed-by=(\S+)", options or "")
    stanza = f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\n"
    return stanza + (f"Signed-By: {signed.group(1)}\n" if signed else "")


def _is_own(stanza: str, suite: str) -> bool:
    """Of the distribution itself: its suites and the component `main`, over the network."""
    fields = dict(re.findall(r"^(\S+):\s*(.*)$", stanza, re.MULTILINE))
    known = {suite, f"{suite}-updates", f"{suite}-security"}
    return (
        "deb" in fields.get("Types", "").split()
        and fields.get("URIs", "").startswith("http")
        and fields.get("Enabled", "yes") == "yes"
        and set(fields.get("Suites", "").split()) <= known
        and "main" in fields.get("Components", "").split()
    )


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
