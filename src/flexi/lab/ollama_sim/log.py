"""Log lines in the shape of Go's log/slog text handler, to standard error (the journal, under systemd).

Source: logutil/logutil.go.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from .goformat import now_ns, rfc3339

_PLAIN = re.compile(r"[^\s\"=]+")


def line(level: str, message: str, **fields: Any) -> str:
    """One log line, without its newline."""
    moment = rfc3339(now_ns() // 10**6 * 10**6)
    parts = [f"time={moment}", f"level={level}", f"msg={_quote(message)}"]
    parts += [f"{key}={_quote(str(value))}" for key, value in fields.items()]
    return " ".join(parts)


def info(message: str, **fields: Any) -> None:
    _write(line("INFO", message, **fields))


def warn(message: str, **fields: Any) -> None:
    _write(line("WARN", message, **fields))


def error(message: str, **fields: Any) -> None:
    _write(line("ERROR", message, **fields))


def _quote(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _write(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
