"""What runs on the chat's host as one file, which stands on PYTHONPATH there: `flexi.chathost` and nothing else."""

from __future__ import annotations

from pathlib import Path

from flexi.zipped import zipped

SOURCE = Path(__file__).resolve().parent / "chathost"


def build() -> bytes:
    """The archive for `PYTHONPATH=flexi-chat.pyz python -m flexi.chathost.…` (Python 3.11 or newer)."""
    modules = {
        f"flexi/chathost/{path.relative_to(SOURCE)}": path.read_text(encoding="utf-8")
        for path in sorted(SOURCE.rglob("*.py"))
    }
    return zipped({"flexi/__init__.py": "", **modules})
