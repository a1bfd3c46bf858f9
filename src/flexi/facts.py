"""pyinfra facts: what is true on a host, read without changing it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.agent import smi
from flexi.agent.smi import Gpu
from flexi.plan.platforms import APT_SOURCES, APT_SOURCES_ONLY
from flexi.truth import SMI, booting_next, driver_version, is_mismatch, kernel_releases, parse_cards


@dataclass(frozen=True)
class DriverTruth:
    """What the kernel and the user space say of the NVIDIA driver right now.

    `running` is the loaded kernel module's version or None, `smi_error` the first complaint of nvidia-smi.
    """

    running: str | None
    nouveau: bool
    smi_error: str | None
    boot_id: str
    tried_boot_id: str | None
    """The boot that our last reboot led to, where it did not help: a second one would not help either."""
    kernel: str = ""
    """Release of the running kernel."""
    kernels: tuple[str, ...] = ()
    """Releases of the installed kernels' packages, oldest first; the last one boots next."""
    tried_kernel: str | None = None
    """The kernel that this reboot was to start and did not; None where it was the driver that did not come."""

    @property
    def next_kernel(self) -> str | None:
        """The kernel that the next boot starts, where it is another one than the running."""
        newest = booting_next(self.kernels, self.kernel)
        return newest if newest != self.kernel else None

    @property
    def mismatch(self) -> bool:
        """The library was exchanged under the loaded module: the one complaint of nvidia-smi that a boot mends."""
        return self.smi_error is not None and is_mismatch([self.smi_error])

    @property
    def running_major(self) -> int | None:
        return int(self.running.split(".")[0]) if self.running else None


_CARDS = f"{SMI}\nthe_cards {','.join(smi.FIELDS)}\n"


class NvidiaGpus(FactBase[list[Gpu]]):
    """The host's GPUs in PCI bus order as nvidia-smi sees them, those included that are not usable; empty where it
    fails or is missing."""

    default = list

    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(_CARDS + "true"))

    def process(self, output: list[str]) -> list[Gpu]:
        cards = parse_cards("\n".join(output))
        return list(cards.gpus) if cards else []


REBOOT_MARK = "/var/lib/flexi/driver-boot-id"
"""What our last reboot did not mend: the id of the boot that it led to and, where the driver was right and only an
older kernel was started, on a second line the kernel that was wanted."""

_DRIVER_TRUTH = f"""
echo "running=$(cat /proc/driver/nvidia/version 2>/dev/null | head -n1)"
echo "nouveau=$([ -d /sys/module/nouveau ] && echo 1 || echo 0)"
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
echo "tried=$(cat {REBOOT_MARK} 2>/dev/null | tr '\\n' ' ')"
echo "kernel=$(cat /proc/sys/kernel/osrelease)"
dpkg-query -W -f='${{db:Status-Status}} ${{Package}}\\n' 'linux-image-*' 2>/dev/null | sed -n 's/^installed /image=/p'
"""


class NvidiaDriver(FactBase[DriverTruth]):
    """The running driver, and what nvidia-smi complains of."""

    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(f"{_DRIVER_TRUTH.strip()}\n{_CARDS}true"))

    def process(self, output: list[str]) -> DriverTruth:
        pairs = [line.split("=", 1) for line in output if "=" in line]
        values = dict(pair for pair in pairs if pair[0] != "image")
        tried = values.get("tried", "").split()
        cards = parse_cards("\n".join(output))
        errors = cards.errors if cards else ("nvidia-smi is not installed",)
        return DriverTruth(
            running=driver_version(values.get("running", "")),
            nouveau=values.get("nouveau", "0") not in ("", "0"),
            smi_error=errors[0] if errors else None,
            boot_id=values.get("boot_id", ""),
            tried_boot_id=tried[0] if tried else None,
            tried_kernel=tried[1] if tried[1:] else None,
            kernel=values.get("kernel", ""),
            kernels=kernel_releases(pair[1].strip() for pair in pairs if pair[0] == "image"),
        )


class BootId(FactBase[str]):
    """Changes with every boot (`man 5 proc`), unlike the uptime also inside a container."""

    def command(self) -> StringCommand:
        return StringCommand("cat /proc/sys/kernel/random/boot_id")

    def process(self, output: list[str]) -> str:
        return output[0].strip()


STAMPS = "/var/lib/flexi/applied"
INCOMING = ".incoming"
"""In a directory that files are pushed to: what has arrived of a file so far, by its digest."""
ARRIVED = ".arrived"
"""In a directory that files were pushed to: digest, size, inode and path of each as it arrived."""


@dataclass(frozen=True)
class StampTruth:
    """Digest of some files now, and the one that was stamped when something was last done with them."""

    present: str
    stamped: str | None


def stamp_digest_command(inputs: Sequence[str]) -> str:
    """Shell command that prints one digest over the names and contents of `inputs`; missing files count as empty."""
    # Also where a shell ends at the first failure: what it prints must not depend on who asks.
    parts = "; ".join(f"echo {shlex.quote(path)}; cat {shlex.quote(path)} 2>/dev/null || :" for path in inputs)
    return f"{{ {parts}; }} | sha256sum | cut -d' ' -f1"


class Stamp(FactBase[StampTruth]):
    def command(self, what: str, inputs: Sequence[str]) -> StringCommand:
        script = f"{stamp_digest_command(inputs)}; cat {shlex.quote(f'{STAMPS}/{what}')} 2>/dev/null; true"
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> StampTruth:
        lines = [line.strip() for line in output if line.strip()]
        return StampTruth(lines[0] if lines else "", lines[1] if len(lines) > 1 else None)


HOLDS = "/var/lib/flexi/holds"


@dataclass(frozen=True)
class Holds:
    """Packages on hold, and those of them that flexi put there."""

    held: frozenset[str]
    ours: frozenset[str]


class HeldPackages(FactBase[Holds]):
    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(f"apt-mark showhold; echo =; cat {HOLDS} 2>/dev/null; true"))

    def process(self, output: list[str]) -> Holds:
        lines = [line.strip() for line in output]
        border = lines.index("=") if "=" in lines else len(lines)
        held = frozenset(line for line in lines[:border] if line)
        return Holds(held, held & frozenset(lines[border + 1 :]))


class AptSourceFiles(FactBase[list[str]]):
    """Paths of the apt sources that flexi wrote, with and without `mirrors.apt_only`."""

    default = list

    def command(self) -> StringCommand:
        script = f"find {APT_SOURCES} {APT_SOURCES_ONLY} -maxdepth 1 -name 'flexi-*.sources' 2>/dev/null; true"
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> list[str]:
        return sorted(line.strip() for line in output if line.strip())


class UnitNames(FactBase[list[str]]):
    """Instances of a template unit that run or start at boot, and of plain units the same."""

    default = list

    def command(self, pattern: str) -> StringCommand:
        listing = "--all --plain --no-legend --no-pager"
        script = (
            f"systemctl list-units {listing} {shlex.quote(pattern)} | awk '$3 != \"inactive\" {{print $1}}'; "
            f"find /etc/systemd/system -path '*.wants/*' -name {shlex.quote(pattern)} -printf '%f\\n'"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> list[str]:
        return sorted({line.strip() for line in output if line.strip()})


@dataclass(frozen=True)
class Releases:
    """Releases side by side: name -> SHA-256 of what it was made from, and the current one."""

    installed: dict[str, str]
    current: str | None
    previous: str | None = None
    """The release that was current before: what a rollback goes back to."""


class OllamaReleases(FactBase[Releases]):
    root = "/opt/ollama"
    mark = ".archive-sha256"
    """The file of a release that holds the digest; there once the release is whole."""

    def command(self) -> StringCommand:
        root = self.root
        return StringCommand(
            "sh",
            "-c",
            QuoteString(
                # Directories only: through the links each release would be there twice.
                f"for d in {root}/*; do f=$d/{self.mark}; "
                '[ ! -h "$d" ] && [ -f "$f" ] && echo "$f $(cat "$f")"; done; '
                f'echo "current $(readlink {root}/current)"; echo "previous $(readlink {root}/previous)"'
            ),
        )

    def process(self, output: list[str]) -> Releases:
        installed: dict[str, str] = {}
        links: dict[str, str | None] = {}
        for line in output:
            key, _, value = line.partition(" ")
            if key in ("current", "previous"):
                links[key] = value.strip().rstrip("/").rsplit("/", 1)[-1] or None
            elif match := re.fullmatch(rf"{self.root}/([^/]+)/{re.escape(self.mark)}", key):
                installed[match.group(1)] = value.strip()
        return Releases(installed, links.get("current"), links.get("previous"))


class ChatReleases(OllamaReleases):
    """Venvs of Open WebUI, each made from a lock."""

    root = "/opt/flexi/chat"
    mark = ".lock-sha256"


CHAT_KEY_DIGEST = "/etc/flexi/chat-key.sha256"


class ChatKeyDigest(FactBase[str | None]):
    """SHA-256 (hex) of the key that the chat on this host shows to the gateway; None where there is none."""

    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(f"cat {CHAT_KEY_DIGEST} 2>/dev/null || true"))

    def process(self, output: list[str]) -> str | None:
        found = [line.strip() for line in output if re.fullmatch(r"[0-9a-f]{64}", line.strip())]
        return found[0] if found else None


@dataclass(frozen=True)
class BundleTruth:
    """What of a bundle lies on a host: path to SHA-256 of files that are as they arrived, and to None of others."""

    files: dict[str, str | None]
    free_bytes: int


class BundleFiles(FactBase[BundleTruth]):
    """Nothing is hashed: what has the size and the inode of its arrival is what arrived.

    Not the time of its last change, which changes when a model is linked into a store.
    """

    def command(self, home: str) -> StringCommand:
        script = (
            f"free=$(for d in {home} /var/lib; do df -Pk $d 2>/dev/null | awk 'NR==2{{print $4}}'; done | head -n1); "
            f'echo "free $free"; cd {home} 2>/dev/null || exit 0; sed "s/^/arrived /" {ARRIVED} 2>/dev/null; '
            f"for d in apt models {INCOMING}; do [ ! -d $d ] || find $d -type f -printf 'file - %s %i %p\\n'; done"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> BundleTruth:
        free, arrived, files = 0, {}, {}
        for line in output:
            kind, _, rest = line.partition(" ")
            if kind == "free" and rest.isdigit():
                free = int(rest) * 1024
            elif kind in ("arrived", "file") and rest.count(" ") == 3:
                sha256, size, inode, path = rest.split(" ")
                if kind == "arrived":
                    arrived[path] = (sha256, size, inode)
                else:
                    files[path] = (size, inode)
        known = {path: arrived.get(path, ("", "", "")) for path in files}
        return BundleTruth({path: known[path][0] if known[path][1:] == files[path] else None for path in files}, free)


class KeyFingerprints(FactBase[list[str]]):
    """Fingerprints of the primary keys in an OpenPGP key file; empty where the file is missing."""

    default = list

    def command(self, path: str) -> StringCommand:
        return StringCommand(
            "gpg", "--batch", "--with-colons", "--show-keys", QuoteString(path), "2>/dev/null", "||", "true"
        )

    def process(self, output: list[str]) -> list[str]:
        fingerprints, primary = [], False
        for line in output:
            fields = line.split(":")
            if fields[0] in ("pub", "sub"):
                primary = fields[0] == "pub"
            elif fields[0] == "fpr" and primary:
                fingerprints.append(fields[9])
        return fingerprints


class NftTable(FactBase[bool]):
    """Whether an nftables table (`inet flexi`) is loaded."""

    def command(self, table: str) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(f"nft list table {table} >/dev/null 2>&1 && echo yes; true"))

    def process(self, output: list[str]) -> bool:
        return "yes" in output


DRAIN_SWITCHES = "/etc/flexi/drain.d"


class DrainSwitches(FactBase[dict[str, str]]):
    """Groups that take no new requests, each with the first line of its switch: why."""

    default = dict

    def command(self) -> StringCommand:
        script = f'for f in {DRAIN_SWITCHES}/*; do [ -f "$f" ] && echo "${{f##*/}} $(head -n1 "$f")"; done; true'
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> dict[str, str]:
        pairs = (line.partition(" ") for line in output if line.strip())
        return {group: reason.strip() for group, _, reason in pairs}


class ActiveInstances(FactBase[frozenset[str]]):
    """Groups whose Ollama runs; one that waits for its GPUs does not."""

    default = frozenset

    def command(self) -> StringCommand:
        listing = "systemctl list-units --plain --no-legend --no-pager --state=active"
        return StringCommand("sh", "-c", QuoteString(f"{listing} 'ollama@*.service' | awk '{{print $1}}'"))

    def process(self, output: list[str]) -> frozenset[str]:
        matches = (re.fullmatch(r"ollama@(.+)\.service", line.strip()) for line in output)
        return frozenset(match.group(1) for match in matches if match)


@dataclass(frozen=True)
class LocalTime:
    """The host's wall clock: ISO weekday (1 is Monday) and minutes since midnight."""

    weekday: int
    minute: int


class HostTime(FactBase[LocalTime]):
    def command(self) -> StringCommand:
        return StringCommand("date '+%u %H %M'")

    def process(self, output: list[str]) -> LocalTime:
        weekday, hours, minutes = (int(field) for field in output[0].split())
        return LocalTime(weekday, 60 * hours + minutes)


class InstanceGpus(FactBase[list[str]]):
    """UUIDs in an instance's environment file; empty where there is none."""

    default = list

    def command(self, path: str) -> StringCommand:
        script = f"sed -n 's/^CUDA_VISIBLE_DEVICES=//p' {shlex.quote(path)} 2>/dev/null; true"
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> list[str]:
        return [uuid for line in output for uuid in line.strip().split(",") if uuid]


class Upgrades(FactBase[dict[str, str]]):
    """What apt would install or upgrade to bring `packages` (those that are installed, held or not) to the newest
    that it may have, and to install `also`, with the present index and pins: package -> version. Empty where it
    cannot, or where there is nothing to bring up."""

    default = dict

    def command(self, packages: Sequence[str], also: Sequence[str] = ()) -> StringCommand:
        names = " ".join(shlex.quote(name) for name in packages)
        new = " ".join(shlex.quote(name) for name in also)
        have = (
            f"have=$(dpkg-query -W -f='${{db:Status-Status}} ${{Package}}\n' {names} 2>/dev/null | "
            "sed -n 's/^installed //p'); [ -z \"$have\" ] || "
        )
        script = (
            (have if packages else "have=; ") + "apt-get -s -qq -o APT::Get::Show-User-Simulation-Note=no install "
            f"--allow-change-held-packages --no-install-recommends $have {new} | grep ^Inst; true"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> dict[str, str]:
        matches = (re.match(r"Inst (\S+) (?:\[[^]]*\] )?\((\S+)", line) for line in output)
        return {match.group(1): match.group(2) for match in matches if match}


class Real(FactBase[bool]):
    """Whether an archive of this host has a package that is not an empty one: Debian and Ubuntu mark those that only
    pull another one by their section or their description (as `flexi.truth` knows them)."""

    default = bool

    def command(self, package: str) -> StringCommand:
        real = "!/\\nSection: ([a-z-]+\\/)?oldlibs/ && !/[Tt]ransitional/ {found = 1}"
        script = (
            f"apt-cache show {shlex.quote(package)} 2>/dev/null | "
            f"awk 'BEGIN {{RS = \"\"}} {real} END {{exit !found}}' && echo yes; true"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> bool:
        return "yes" in output


OLLAMA_HOMES = "/var/lib/ollama"
GROUP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", re.ASCII)

EMPTY_MOUNT = """
empty_mount() {
  [ -d "$1" ] && [ -z "$(find "$1/" ! -type d -print -quit)" ] &&
    [ -n "$(find "$1/" -type d -exec mountpoint -q {} \\; -print -quit)" ]
}
"""
"""Shell function: whether there is nothing in a directory but empty mount points, which cannot be removed."""

_LIST_STORES = f"""
{EMPTY_MOUNT}
cd {OLLAMA_HOMES} 2>/dev/null || exit 0
for home in *; do
  [ -d "$home/models" ] && [ ! -L "$home" ] && [ ! -L "$home/models" ] && [ -e "/etc/ollama/$home.env" ] || continue
  ! empty_mount "$home" || continue
  echo "store $home"
  find "$home/models/manifests" -mindepth 4 -maxdepth 4 -type f -printf 'model %P\\n' 2>/dev/null || true
done
"""


@dataclass(frozen=True)
class Stored:
    """The store of a group, as it lies on the disk."""

    group: str
    models: tuple[str, ...]
    """Full names, sorted."""


class OllamaStores(FactBase[list[Stored]]):
    """Stores that flexi made: directories with models below /var/lib/ollama whose group has an environment file."""

    default = list

    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(_LIST_STORES))

    def process(self, output: list[str]) -> list[Stored]:
        found: dict[str, list[str]] = {}
        models: list[str] = []
        for line in output:
            kind, _, value = line.partition(" ")
            if kind == "store":
                models = []
                if GROUP_NAME.match(value):
                    found[value] = models
            elif kind == "model" and value.count("/") == 3:
                models.append(_model_name(value))
        return [Stored(group, tuple(sorted(models))) for group, models in found.items()]


def _model_name(manifest: str) -> str:
    """The name of the model whose manifest lies there (types/model/name.go DisplayShortest, Ollama v0.24.0)."""
    place, namespace, model, tag = manifest.split("/")
    named = f"{model}:{tag}".lower()
    if place != "registry.ollama.ai":
        return f"{place}/{namespace}/{named}".lower()
    return named if namespace == "library" else f"{namespace}/{named}".lower()


class Paths(FactBase[list[str]]):
    """Paths that exist among those which the shell patterns match; not directories of empty mount points, of which
    nothing can be removed."""

    default = list

    def command(self, patterns: Sequence[str]) -> StringCommand:
        there = '{ [ -e "$path" ] || [ -h "$path" ]; } && ! empty_mount "$path"'
        script = f'{EMPTY_MOUNT}for path in {" ".join(patterns)}; do {there} && echo "$path"; done; true'
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line.startswith("/")]


@dataclass(frozen=True)
class CertificateTruth:
    """The certificate that HAProxy has, and the one that certbot last got."""

    sha256: str | None = None
    """Of the file with certificate, chain and key; None where there is none."""
    self_signed: bool = False
    """Made by flexi's own program on the host."""
    names: frozenset[str] = frozenset()
    """As `TlsPlan.names` has them."""
    lasts: bool = False
    """For 30 days more."""
    ordered_sha256: str | None = None
    """Of certbot's newest certificate, chain and key together."""


class GatewayCertificate(FactBase[CertificateTruth]):
    """What is true of the certificate file `path`."""

    default = CertificateTruth

    def command(self, path: str) -> StringCommand:
        file, lineage = shlex.quote(path), "/etc/letsencrypt/live/flexi"
        digest = "cut -d' ' -f1"
        script = (
            f"[ ! -e {lineage}/privkey.pem ] || "
            f'echo "ordered $(cat {lineage}/fullchain.pem {lineage}/privkey.pem | sha256sum | {digest})"; '
            f'[ -e {file} ] || exit 0; echo "sha256 $(sha256sum {file} | {digest})"; '
            f"openssl x509 -in {file} -noout -subject -issuer -nameopt RFC2253 -ext subjectAltName 2>/dev/null; "
            f"openssl x509 -in {file} -noout -checkend {30 * 86400} >/dev/null 2>&1 && echo lasts; true"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> CertificateTruth:
        words = dict(
            line.split("=" if line.startswith(("subject=", "issuer=")) else " ", 1)
            for line in output
            if re.match(r"(ordered|sha256) |(subject|issuer)=", line)
        )
        names = re.findall(r"(DNS|IP) ?(?:Address)?:([^,\s]+)", " ".join(output))
        return CertificateTruth(
            sha256=words.get("sha256"),
            self_signed=words.get("subject") == words.get("issuer") == "CN=flexi gateway (self-signed)",
            names=frozenset(f"{kind}:{name}" for kind, name in names),
            lasts="lasts" in output,
            ordered_sha256=words.get("ordered"),
        )


class InterfaceOf(FactBase[str | None]):
    """The network interface that has the IPv4 `address`; None where none has it."""

    def command(self, address: str) -> StringCommand:
        return StringCommand("ip", "-o", "-4", "address", "show", "to", QuoteString(address))

    def process(self, output: list[str]) -> str | None:
        """`2: eth0    inet 10.87.0.10/24 scope global eth0\\ …` (ip-address(8), -oneline)."""
        return output[0].split()[1] if output else None


@dataclass(frozen=True)
class ChatDatabaseTruth:
    """What a host's own PostgreSQL has for the chat."""

    role: bool = False
    database: bool = False
    extension: bool = False
    """pgvector, in that database."""
    used: bool = False
    """Open WebUI has its tables there."""


class ChatDatabase(FactBase[ChatDatabaseTruth]):
    """Nothing is there where PostgreSQL is not installed, or does not run yet."""

    default = ChatDatabaseTruth

    def command(self, database: str) -> StringCommand:
        ask = "cd / && runuser -u postgres -- psql -XAtq"
        role = f"SELECT 'role' FROM pg_roles WHERE rolname = '{database}'"
        there = f"SELECT 'database' FROM pg_database WHERE datname = '{database}'"
        has = "SELECT 'extension' FROM pg_extension WHERE extname = 'vector'"
        used = "SELECT 'used' WHERE to_regclass('public.\"user\"') IS NOT NULL"
        script = (
            "command -v psql >/dev/null && id -u postgres >/dev/null 2>&1 || exit 0; "
            f"{ask} -d postgres -c {shlex.quote(role)} -c {shlex.quote(there)} 2>/dev/null; "
            f"{ask} -d {database} -c {shlex.quote(has)} -c {shlex.quote(used)} 2>/dev/null; true"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> ChatDatabaseTruth:
        found = {line.strip() for line in output}
        return ChatDatabaseTruth(*(part in found for part in ("role", "database", "extension", "used")))
