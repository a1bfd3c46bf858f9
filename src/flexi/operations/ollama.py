"""Ollama releases side by side, and the environment of an instance."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from io import StringIO

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from flexi.bundle.release import digest as published_digest
from flexi.bundle.release import local_archive
from flexi.catalog.platforms import ollama_needs
from flexi.errors import FlexiError
from flexi.facts.driver import NvidiaDriver
from flexi.facts.gpus import InstanceGpus, NvidiaGpus
from flexi.facts.releases import OllamaReleases
from flexi.operations import releases
from flexi.operations.bundle import push_files
from flexi.operations.cards import wrong_cards
from flexi.operations.host_failure import fail_host
from flexi.plan.model.ollama import InstancePlan, OllamaPlan
from flexi.ssh.pushing import Item
from flexi_host.agent.smi import Expected, Gpu

Commands = Generator[StringCommand | FunctionCommand, None, None]

RELEASES = "/opt/ollama"
CURRENT_DIGEST = f"{RELEASES}/current/.archive-sha256"
"""Changes with the release in use, also where a version is published anew."""


@operation()
def unpack_release(ollama: OllamaPlan) -> Generator[StringCommand | FunctionCommand, None, None]:
    """Unpack the planned release to /opt/ollama/<version>, its archive's SHA-256 checked before anything is moved.

    The digest is the site file's, or else the release's own published list. Interrupted at any point, the next
    run resumes the download or starts the unpacking again; what is in use is never touched. An archive on the admin's
    machine is brought over SSH.
    """
    have = host.get_fact(OllamaReleases).installed.get(ollama.version)
    archive = local_archive(ollama)
    if have is not None and ollama.sha256 in (None, have) and archive is None:
        host.noop(f"Ollama {ollama.version} is unpacked")
        return
    if archive is None:
        yield StringCommand("sh", "-c", QuoteString(install_script(ollama)))
        return
    try:
        digest = published_digest(ollama)
        if have == digest:
            host.noop(f"Ollama {ollama.version} is unpacked")
            return
        size = archive.stat().st_size
    except (FlexiError, OSError) as error:
        yield fail_host(str(error))
        return
    item = Item(archive, archive_name(ollama), digest, size)
    yield FunctionCommand(push_files, ([item], f"{RELEASES}/.download"), {})
    yield StringCommand("sh", "-c", QuoteString(unpack_script(ollama, digest)))


def archive_name(ollama: OllamaPlan) -> str:
    """Return the name of a release's archive in the directory for downloads."""
    return f"ollama-{ollama.version}.tar.zst"


def install_script(ollama: OllamaPlan, root: str = RELEASES) -> str:
    """Return the POSIX shell script that fetches and unpacks a release below `root`; it ends with 1 if it cannot."""
    download = _DOWNLOAD.format(archive=ollama.archive_url, checksums=ollama.checksums_url)
    return _script(ollama, root, ollama.sha256 or "", download)


def unpack_script(ollama: OllamaPlan, sha256: str, root: str = RELEASES) -> str:
    """Return the script like `install_script`, for an archive that was brought already."""
    return _script(ollama, root, sha256, "")


def _script(ollama: OllamaPlan, root: str, wanted: str, download: str) -> str:
    return _INSTALL.format(
        root=root,
        version=ollama.version,
        name=archive_name(ollama),
        wanted=wanted,
        download=download,
        url=ollama.archive_url,
    )


# curl -C - resumes. A server that cannot (33) or a complete file (416: 22) is no error here: the digest decides, and a
# file that fails it is removed, so that the next run starts afresh.
_DOWNLOAD = """
if [ -z "$wanted" ]; then
  wanted=$(curl -fsSL --retry 3 '{checksums}' |
    sed -n 's#^\\([0-9a-f]\\{{64\\}}\\)  *[*]*\\(\\./\\)*ollama-linux-amd64\\.tar\\.zst$#\\1#p')
  [ -n "$wanted" ] || {{ echo 'no digest of the archive in {checksums}: set ollama.sha256' >&2; exit 1; }}
fi
curl -fsSL --retry 3 -C - -o "$file" '{archive}' || case $? in
  22 | 33 | 36) rm -f "$file"; curl -fsSL --retry 3 -o "$file" '{archive}' ;;
  *) exit 1 ;;
esac
"""

_INSTALL = """
set -eu
umask 022
version='{version}' wanted='{wanted}'
mkdir -p {root}/.download
file={root}/.download/{name}
{download}
have=$(sha256sum "$file" | cut -d' ' -f1)
if [ "$have" != "$wanted" ]; then
  rm -f "$file"
  echo "{url} has the SHA-256 $have, wanted $wanted: nothing was switched" >&2
  exit 1
fi
new={root}/.new-$version
rm -rf "$new"
mkdir -p "$new"
zstd -dc "$file" | tar -xf - -C "$new" --no-same-owner
[ -x "$new/bin/ollama" ] || {{ echo 'the archive has no bin/ollama' >&2; exit 1; }}
chmod -R go-w,a+rX "$new"
echo "$have" >"$new/.archive-sha256"
rm -rf {root}/.old-$version
[ ! -e "{root}/$version" ] || mv "{root}/$version" "{root}/.old-$version"
mv "$new" "{root}/$version"
rm -rf {root}/.old-$version "$file"
"""


@operation()
def switch_release(version: str) -> Generator[StringCommand, None, None]:
    """Make `version` the release that instances start from."""
    yield from releases.switch(OllamaReleases, version)


@operation()
def roll_back(version: str, major: int) -> Commands:
    """Make the release current that was before `version`, the site file's; a host that runs another is back already, or
    was never brought to it. Forth again goes a deploy.

    Fails the host where there is none, or where that one would serve from the CPU on the running driver.
    """
    present = host.get_fact(OllamaReleases)
    if present.current is not None and present.current != version:
        host.noop(f"{present.current} is current, which is not the site file's {version}")
        return
    previous = releases.previous_of(present)
    if previous is None:
        yield fail_host("has no previous Ollama: it was never changed here. Set ollama.version and deploy")
        return
    running = host.get_fact(NvidiaDriver).running_major or major
    if running < ollama_needs(previous):
        yield fail_host(f"Ollama {previous} computes on the CPU under driver {running}: not rolled back")
        return
    yield from releases.swap(OllamaReleases, previous, version)


@operation()
def remove_old_releases(version: str, after: Sequence[OperationMeta]) -> Generator[StringCommand, None, None]:
    """Remove releases that nobody goes back to: 2 GB and more each. `after` is the switch to `version`."""
    yield from releases.remove_old(OllamaReleases, version, after)


def resolve_gpus(instance: InstancePlan, present: list[Gpu], gpu_count: int) -> list[str]:
    """Return UUIDs of the group's GPUs on this host; LookupError names the ones that are not there or not usable.

    With a card missing, the others' indices move up: an index then says nothing, and the group waits for the card.
    """
    if len(present) != gpu_count and any(isinstance(wanted, int) for wanted in instance.gpus):
        raise LookupError(
            f"group {instance.group}: nvidia-smi shows {len(present)} of the host's {gpu_count} GPUs, so their numbers "
            "cannot be trusted. Mend the card, correct gpus.count, or name the group's GPUs by UUID"
        )
    by_index = {gpu.index: gpu.uuid for gpu in present}
    by_uuid = {gpu.uuid for gpu in present}
    resolved, missing = [], []
    for wanted in instance.gpus:
        uuid = by_index.get(wanted) if isinstance(wanted, int) else (wanted if wanted in by_uuid else None)
        resolved.append(uuid or "")
        if uuid is None:
            missing.append(str(wanted))
    if missing:
        raise LookupError(
            f"group {instance.group}: GPU {', '.join(missing)} is not on this host; nvidia-smi shows "
            f"{len(present)} ({', '.join(f'{g.index}={g.uuid}' for g in present) or 'none'}). "
            "If the card was replaced, write the new one into the site file"
        )
    broken = [gpu for gpu in present if gpu.uuid in resolved and gpu.fault]
    if broken:
        first = broken[0]
        raise LookupError(
            f"group {instance.group}: {first.called} is not usable: {first.fault}. Reset it (nvidia-smi --gpu-reset "
            f"-i {first.index}, with nothing running on it) or reboot the host, then deploy again"
        )
    return resolved


def render_environment(instance: InstancePlan, uuids: list[str]) -> str:
    """Return the environment file of an instance, GPUs by UUID: indices change with the hardware, UUIDs do not."""
    lines = [f"# {instance.unit}: written by flexi from the site file; changes here are overwritten."]
    lines += [f"CUDA_VISIBLE_DEVICES={','.join(uuids)}"]
    lines += [f"{name}={value}" for name, value in instance.environment]
    return "\n".join(lines) + "\n"


def replaced_gpus(before: list[str], now: list[str], present: list[Gpu]) -> list[tuple[str, str]]:
    """Return cards that replace others which the host no longer has: (old UUID, new UUID), in the group's order."""
    here = {gpu.uuid for gpu in present}
    gone = [uuid for uuid in before if uuid not in here]
    return list(zip(gone, (uuid for uuid in now if uuid not in before), strict=False))


def _gpus_accepted() -> bool:
    """Return whether the admin has accepted that this host has other cards than before."""
    return host.name in str(host.data.get("accept_gpus", "")).split(",")


@operation()
def write_environment(
    instance: InstancePlan, gpu_count: int, expected: Expected | None = None, place: str = ""
) -> Commands:
    """Write /etc/ollama/<group>.env with the GPUs' UUIDs as the running driver tells them.

    Read when it runs and not before: on a bare host the driver comes up in the middle of the same deploy. A card in
    the place of another one is explained, and taken only when the admin has accepted it (data `accept_gpus`). Cards
    that are not those which the site file `expected` at `place` are refused.
    """
    present = host.get_fact(NvidiaGpus)
    before = host.get_fact(InstanceGpus, path=instance.environment_file)
    if not present and not host.state.is_executing:
        # A dry run before a reboot: the driver that shows the GPUs comes earlier in this very deploy.
        if not before:
            yield StringCommand("true")
        return
    wrong = wrong_cards(present, expected, host.name, place)
    if wrong:
        yield fail_host(f"group {instance.group}: {wrong}")
        return
    try:
        uuids = resolve_gpus(instance, present, gpu_count)
    except LookupError as missing:
        yield fail_host(str(missing.args[0]))
        return
    others = replaced_gpus(before, uuids, present)
    if others and not _gpus_accepted():
        pairs = "; ".join(f"{old} is gone, {new} is in its place" for old, new in others)
        yield fail_host(
            f"group {instance.group}: {pairs}. If the card was replaced, accept it: "
            f"--accept-gpus {host.name}. If not, look at the slot and at nvidia-smi -L"
        )
        return
    yield from files.put._inner(
        src=StringIO(render_environment(instance, uuids)),
        dest=instance.environment_file,
        user="root",
        group="root",
        mode="0644",
        create_remote_dir=False,
    )
