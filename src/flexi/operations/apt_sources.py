"""Repositories beside those that a host has: apt reads none at all where two of one place differ in their key."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from pyinfra.api import operation

from flexi.catalog.platforms import APT_SOURCES_ONLY
from flexi.operations.system import Commands, validated_file

_TRY = """tried=$(mktemp -d)
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


def trial(dest: str, keep: Sequence[str] | None = None) -> str:
    """Shell text that ends with 0 where apt can read the new file `{}` in place of `dest`, beside the others."""
    path = PurePosixPath(dest)
    return _TRY.format(
        directory=path.parent,
        name=path.name,
        kept="*" if keep is None else "|".join(shlex.quote(file) for file in (dest, *keep)),
        listed="/dev/null" if str(path.parent) == APT_SOURCES_ONLY else "/etc/apt/sources.list",
    )


@operation()
def source_added(dest: str, content: str, keep: Sequence[str] | None = None) -> Commands:
    """Write the apt source `dest` (deb822) once apt can read it beside the host's others; otherwise all stay as they
    are, an older `dest` too. With `keep`, those of flexi's own that are not among them count as gone."""
    yield from validated_file._inner(dest=dest, content=content, check=trial(dest, keep))
