"""On the chat's host: how the chat is at this moment, a line of JSON for `flexi status`. Standard library only.

    python -m flexi_chat.gate.now UNIT HEALTH_URL CURRENT DATA SAVED

`unit` is systemd's word, `answers` whether it says that it is well, `release` Open WebUI's version, `courses` what
courses_note.py wrote, `saved` when the last backup was kept (Unix time), `exchanged` whether a restore puts something
else in the chat's place, or was killed there. What is not known is null.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from flexi_chat.backup.staging import PREFIX, UNFINISHED
from flexi_chat.courses.note import NAME

PATIENCE_S = 3.0


def now(unit: str, health: str, current: Path, data: Path, saved: Path) -> dict[str, Any]:
    state = subprocess.run(
        ["systemctl", "show", "--property=ActiveState", "--value", unit], capture_output=True, text=True, check=False
    ).stdout.strip()
    kept = _json(saved)
    return {
        "unit": state or "unknown",
        "answers": state == "active" and _answers(health),
        "release": current.resolve().name.partition("-")[0] if current.is_symlink() else None,
        "courses": _json(data / NAME),
        "saved": kept if isinstance(kept, int) else None,
        "exchanged": any(data.parent.glob(f"{PREFIX}restore-*/{UNFINISHED}")),
    }


def _answers(health: str) -> bool:
    # Never by way of a proxy that the host has for the outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(health, timeout=PATIENCE_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def main() -> int:
    unit, health, *paths = sys.argv[1:]
    print(json.dumps(now(unit, health, *map(Path, paths))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
