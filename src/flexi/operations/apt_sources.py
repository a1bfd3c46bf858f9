"""Repositories beside those that a host has: apt reads none at all where two of one place differ in their key."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence
from pathlib import PurePosixPath

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from flexi.catalog.platforms import APT_SOURCES_ONLY
from flexi.facts.apt import AptSourceFiles
from flexi.operations.host_files import Commands, validated

_TRIAL = """tried=$(mktemp -d)
for file in {directory}/*.list {directory}/*.sources; do
  [ -f "$file" ] || continue
  case $file in {kept}) ;; {directory}/flexi-*) continue ;; esac
  cp "$file" "$tried/"
done
cp {{}} "$tried/{name}"
apt-get -o Dir::Etc::SourceList={listed} -o Dir::Etc::SourceParts="$tried" indextargets >/dev/null
status=$?
rm -rf "$tried"
[ $status -eq 0 ]"""


def trial_script(dest: str, keep: Sequence[str] | None = None) -> str:
    """Return shell text that ends with 0 where apt can read the new file `{}` in place of `dest`, beside the others."""
    path = PurePosixPath(dest)
    return _TRIAL.format(
        directory=path.parent,
        name=path.name,
        kept="*" if keep is None else "|".join(shlex.quote(file) for file in (dest, *keep)),
        listed="/dev/null" if str(path.parent) == APT_SOURCES_ONLY else "/etc/apt/sources.list",
    )


@operation()
def add(dest: str, content: str, keep: Sequence[str] | None = None) -> Commands:
    """Write the apt source `dest` (deb822) once apt can read it beside the host's others; otherwise all stay as they
    are, an older `dest` too. With `keep`, those of flexi's own that are not among them count as gone."""
    yield from validated._inner(dest=dest, content=content, check=trial_script(dest, keep))


@operation()
def remove_except(keep: Sequence[str]) -> Generator[StringCommand, None, None]:
    """Remove apt sources that flexi wrote (`flexi-*.sources`) and that are not in `keep`, by their full paths."""
    unwanted = [path for path in host.get_fact(AptSourceFiles) if path not in keep]
    if not unwanted:
        host.noop("nothing is left over")
        return
    yield StringCommand("rm", "-f", *(QuoteString(path) for path in unwanted))
