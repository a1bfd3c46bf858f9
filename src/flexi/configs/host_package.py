"""The host programs as one file: the package `flexi_host` in a zip that Python runs."""

from __future__ import annotations

from pathlib import Path

import flexi_host
from flexi.configs.zipped import package_files, zipped

_MAIN = "import sys\nfrom flexi_host.__main__ import main\nsys.exit(main())\n"


def build() -> bytes:
    """Build the archive for `python3 flexi-agent.pyz PROGRAM` (Python 3.10 or newer, standard library only)."""
    return zipped({"__main__.py": _MAIN, **package_files(Path(flexi_host.__file__).parent)})
