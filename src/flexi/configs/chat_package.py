"""The programs beside Open WebUI as one file, which stands on PYTHONPATH there: `flexi_chat` and nothing else."""

from __future__ import annotations

from pathlib import Path

import flexi_chat
from flexi.configs.zipped import package_files, zipped


def build() -> bytes:
    """Build the archive for `PYTHONPATH=flexi-chat.pyz python -m flexi_chat.…` (Python 3.11 or newer)."""
    return zipped(package_files(Path(flexi_chat.__file__).parent))
