"""Where the packages of a platform come from on the machine that makes a bundle."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from flexi.configs.rendering import render
from flexi.errors import FlexiError, InputError
from flexi.facts.apt import KeyFingerprints
from flexi.plan.model.base import AptSourcePlan
from flexi.plan.model.site import HostPlan

from . import download

APT = Path("/etc/apt")


def own_platform() -> str:
    """This machine's platform as site files name it: `ubuntu-22.04`, `debian-12`; empty where it does not say."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{release.get('ID', '')}-{release.get('VERSION_ID', '')}"


def of_host(host: HostPlan, given: Mapping[str, Path], root: Path) -> dict[str, str]:
    """File name below etc/apt to content, of all sources for `host`.

    The distribution's are the file that was given for its platform, or this machine's own where it is of that platform,
    or nobody's where the site has `apt_only`. The site's own repositories come with them, and NVIDIA's where it has
    CUDA. InputError where that makes none at all, FlexiError where a key cannot be had.
    """
    root.mkdir(parents=True, exist_ok=True)
    found = {}
    if host.platform in given:
        try:
            found["sources.list.d/given.sources"] = given[host.platform].read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InputError(f"--sources {given[host.platform]}: cannot be read ({error})") from None
    elif own_platform() == host.platform and not host.base.apt_sources_only:
        found |= _own()
    for source in host.base.apt_sources:
        keyring = _keyring(source, root)
        name = f"sources.list.d/{Path(source.file).name}"
        found[name] = render("base/mirror.sources.j2", source=source.model_copy(update={"keyring": keyring}))
    if not found:
        raise InputError(
            f"no apt sources are known for {host.platform} ({host.name}) on this machine, which is "
            f"{own_platform() or 'no Debian or Ubuntu'}: write them in a deb822 file (man sources.list) and give it "
            f"with --sources {host.platform}=FILE, or name a mirror in mirrors.apt"
        )
    if host.cuda and host.cuda.repository:
        key = _fetched_key(host.cuda.key_url, host.cuda.key_fingerprint, root / "flexi-cuda.asc")
        text = render("cuda/cuda.sources.j2", repository=host.cuda.repository, keyring=key)
        found["sources.list.d/flexi-cuda.sources"] = text
    return found


def _keyring(source: AptSourcePlan, root: Path) -> str:
    """Path on this machine of the key that a repository of the site is signed with."""
    if source.key_url:
        return _fetched_key(source.key_url, source.key_fingerprint, root / Path(source.keyring).name)
    path = Path(source.key or source.keyring)
    if not path.is_file():
        raise FlexiError(f"the key of {source.uri} is not on this machine: put it at {path}, or name it in mirrors.apt")
    return str(path.absolute())


def _fetched_key(url: str, fingerprint: str | None, target: Path) -> str:
    """Fetch a repository's key and check it by its fingerprint, as a host would."""
    target.write_bytes(download.read(url, limit=1024 * 1024))
    if fingerprint is not None:
        found = _fingerprints(target)
        if found != [fingerprint]:
            target.unlink()
            words = ", ".join(found) or "none"
            raise FlexiError(f"{url} holds the key {words}, expected {fingerprint}: not trusted")
    return str(target.absolute())


def _fingerprints(key: Path) -> list[str]:
    fact = KeyFingerprints()
    try:
        command = ["gpg", "--batch", "--with-colons", "--show-keys", str(key)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise FlexiError("gpg is missing on this machine: apt-get install gpg") from None
    return fact.process(done.stdout.splitlines())


def _own() -> dict[str, str]:
    """This machine's sources as they are."""
    files = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]
    return {
        str(file.relative_to(APT)): file.read_text(encoding="utf-8", errors="replace")
        for file in files
        if file.suffix in (".list", ".sources") and file.is_file()
    }
