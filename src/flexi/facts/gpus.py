"""The host's GPUs and those of each instance."""

from __future__ import annotations

import shlex

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString

from flexi.facts.host import _CARDS
from flexi.probe import parse_cards
from flexi_host.agent.smi import Gpu


class NvidiaGpus(FactBase[list[Gpu]]):
    """The host's GPUs in PCI bus order as nvidia-smi sees them, those included that are not usable; empty where it
    fails or is missing."""

    default = list

    def command(self) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(_CARDS + "true"))

    def process(self, output: list[str]) -> list[Gpu]:
        cards = parse_cards("\n".join(output))
        return list(cards.gpus) if cards else []


class InstanceGpus(FactBase[list[str]]):
    """UUIDs in an instance's environment file; empty where there is none."""

    default = list

    def command(self, path: str) -> StringCommand:
        script = f"sed -n 's/^CUDA_VISIBLE_DEVICES=//p' {shlex.quote(path)} 2>/dev/null; true"
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> list[str]:
        return [uuid for line in output for uuid in line.strip().split(",") if uuid]
