"""flexi-agent as one file: the package's modules in a zip that Python runs."""

from __future__ import annotations

from pathlib import Path

from flexi.zipped import zipped

SOURCE = Path(__file__).resolve().parent / "agent"
PACKAGE = "flexi_agent"
_MAIN = f"import sys\nfrom {PACKAGE}.__main__ import main\nsys.exit(main())\n"


def build() -> bytes:
    """The archive for `python3 flexi-agent.pyz PROGRAM` (Python 3.10 or newer, standard library only)."""
    modules = {f"{PACKAGE}/{path.name}": path.read_text(encoding="utf-8") for path in sorted(SOURCE.glob("*.py"))}
    return zipped({"__main__.py": _MAIN, **modules})
