"""The firewall's table."""

from __future__ import annotations

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString


class NftTable(FactBase[bool]):
    """True where an nftables table (`inet flexi`) is loaded."""

    def command(self, table: str) -> StringCommand:
        return StringCommand("sh", "-c", QuoteString(f"nft list table {table} >/dev/null 2>&1 && echo yes; true"))

    def process(self, output: list[str]) -> bool:
        return "yes" in output
