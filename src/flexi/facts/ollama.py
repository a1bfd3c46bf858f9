"""Ollama's instances: stores, drain switches, which ones run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

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
class GroupStore:
    """The store of a group, as it lies on the disk."""

    group: str
    models: tuple[str, ...]
    """Full names, sorted."""


class OllamaStores(FactBase[list[GroupStore]]):
    """Stores that flexi made: directories with models below /var/lib/ollama whose group has an environment file."""

    default = list

    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(_LIST_STORES))

    def process(self, output: list[str]) -> list[GroupStore]:
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
        return [GroupStore(group, tuple(sorted(models))) for group, models in found.items()]


def _model_name(manifest: str) -> str:
    """Return the name of the model whose manifest lies there (types/model/name.go DisplayShortest, Ollama v0.24.0)."""
    place, namespace, model, tag = manifest.split("/")
    named = f"{model}:{tag}".lower()
    if place != "registry.ollama.ai":
        return f"{place}/{namespace}/{named}".lower()
    return named if namespace == "library" else f"{namespace}/{named}".lower()
