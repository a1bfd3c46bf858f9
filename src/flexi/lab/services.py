"""What the lab's network offers beside the machines: the vendors' archives over HTTP, and the model registry.

One process in the namespace of 10.87.0.2. Usage: python -m flexi.lab.services DIRECTORY
"""

from __future__ import annotations

import functools
import http.server
import io
import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from flexi.catalog import CATALOGUE

from . import cache, processes
from .ollama_sim import catalogue, registry
from .topology import HTTP_PORT, REGISTRY_PORT, SERVICES_ADDRESS

PID_FILE = "services.pid"
READY_FILE = "services.ready"
REGISTRY_LOG = "registry.log"
"""A line for each request: who has downloaded what."""
WWW = "www"


class FileServer(http.server.SimpleHTTPRequestHandler):
    """Plain files, with connections kept open as apt likes them."""

    protocol_version = "HTTP/1.1"
    # A client that has gone without a word must not hold a thread for ever.
    timeout = 120

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        """Always the whole file: which archive a link shows has nothing to do with the files' times."""
        del self.headers["If-Modified-Since"]
        return super().send_head()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def serve_files(address: str, port: int, root: Path) -> http.server.ThreadingHTTPServer:
    """Start serving `root` in a thread; port 0 takes a free one."""
    handler = functools.partial(FileServer, directory=str(root))
    server = _Server((address, port), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def published(www: Path) -> list[Path]:
    """The links through which `www` shows what lies elsewhere."""
    return sorted(path for path in www.rglob("*") if path.is_symlink())


def main(directory: Path) -> int:
    processes.myself().write(directory / PID_FILE)
    www = directory / WWW
    for link in published(www):
        if link.resolve().is_relative_to(cache.CACHE):
            cache.hold(link.resolve())
    serve_files(SERVICES_ADDRESS, HTTP_PORT, www)
    models = registry.Registry(
        SERVICES_ADDRESS, REGISTRY_PORT, catalogue.specs(CATALOGUE), access_log=directory / REGISTRY_LOG
    )
    # Who waits for us looks for this process's pid in it, so that one left by a killed process does not count.
    (directory / READY_FILE).write_text(f"{os.getpid()}\n", encoding="ascii")
    models.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
