"""apt: holds and signing keys."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File

from flexi.facts import HeldPackages, KeyFingerprints


@operation()
def held(packages: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Hold those of `packages` that are installed: an upgrade of them is then a decision, not a night's accident."""
    installed = host.get_fact(DebPackages) or {}
    already = host.get_fact(HeldPackages)
    missing = [name for name in packages if name in installed and name not in already]
    if not missing:
        host.noop("all of them are on hold")
        return
    yield StringCommand("apt-mark", "hold", *(QuoteString(name) for name in missing))


@operation()
def signing_key(url: str, dest: str, fingerprint: str | None) -> Generator[StringCommand, None, None]:
    """Fetch a repository's OpenPGP key to `dest`; with `fingerprint` it must hold exactly that primary key.

    The key is checked beside its place and moved there afterwards, so a wrong one never becomes trusted.
    """
    if host.get_fact(File, path=dest):
        present = host.get_fact(KeyFingerprints, path=dest)
        if fingerprint is None or present == [fingerprint]:
            host.noop(f"{dest} is there")
            return
    new = f"{dest}.new"
    yield StringCommand("curl", "-fsSL", "--retry", "3", "-o", QuoteString(new), QuoteString(url))
    if fingerprint is not None:
        check = (
            f'found=$(gpg --batch --with-colons --show-keys "{new}" | awk -F: '
            '\'$1=="pub"{p=1} $1=="sub"{p=0} $1=="fpr"&&p{print $10}\'); '
            f'[ "$found" = "{fingerprint}" ] || {{ rm -f "{new}"; '
            f'echo "{url} holds the key $found, expected {fingerprint}: not trusted" >&2; exit 1; }}'
        )
        yield StringCommand("sh", "-c", QuoteString(check))
    yield StringCommand("chmod", "0644", QuoteString(new))
    yield StringCommand("mv", "-f", QuoteString(new), QuoteString(dest))
