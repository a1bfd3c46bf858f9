"""Log lines in the shape of Go's log/slog text handler, and gin's lines for requests.

As in the real one the former go to standard error, the latter to standard output (both to the journal, under
systemd), once `configure` has been called. Source: logutil/logutil.go.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

from .goformat import now_ns, rfc3339

_LOG = logging.getLogger("ollama")
_REQUESTS = logging.getLogger("ollama.requests")
_PLAIN = re.compile(r"[^\s\"=]+")


def line(level: str, message: str, **fields: Any) -> str:
    """One log line, without its newline."""
    moment = rfc3339(now_ns() // 10**6 * 10**6)
    parts = [f"time={moment}", f"level={level}", f"msg={_quote(message)}"]
    parts += [f"{key}={_quote(str(value))}" for key, value in fields.items()]
    return " ".join(parts)


def info(message: str, **fields: Any) -> None:
    _LOG.info(line("INFO", message, **fields))


def warn(message: str, **fields: Any) -> None:
    _LOG.warning(line("WARN", message, **fields))


def error(message: str, **fields: Any) -> None:
    _LOG.error(line("ERROR", message, **fields))


def request(text: str) -> None:
    """One request that has been answered."""
    _REQUESTS.info(text)


def configure() -> None:
    """Write the lines out; called by the command, not by tests."""
    for logger, stream in ((_LOG, sys.stderr), (_REQUESTS, sys.stdout)):
        logger.setLevel(logging.INFO)
        logger.propagate = False
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


def _quote(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
