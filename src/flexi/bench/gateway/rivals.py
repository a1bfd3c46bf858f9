"""The proxies that flexi's gateway is measured against: installed for the bench alone, started, reloaded, ended.

Nothing is installed on this computer: nginx comes as a package that is only unpacked, LiteLLM and Open WebUI into a
virtual environment each, from a lock with hashes (`litellm.lock`, `open-webui.lock`; docs/admin/benchmark.md says
how they were made). All of it lies in /var/cache/flexi-bench, and runs without root's rights in the gateway's network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexi.errors import FlexiError
from flexi.lab import cache, network, processes

from .client import Place, Target
from .wire import allow_many_files

HOME = Path("/var/cache/flexi-bench")
USER = "nobody"
PYTHON = "python3.11"
"""What the locks' wheels are for; not this process's own interpreter, which may lie where only root can read."""
START_S = 180.0
"""Open WebUI makes its database first."""
OPENAI, CHAT = "/v1/chat/completions", "/api/chat"
WORKERS = os.cpu_count() or 1
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ground:
    """Where a rival runs: the network that it shares with the gateway, and the instances behind it."""

    namespace: str
    instances: tuple[Place, ...]


class Rival(ABC):
    """A proxy in front of all instances of one model. A context manager: inside, it runs and answers."""

    name: str
    port: int
    path = OPENAI
    reloads = True
    """Whether it takes a changed configuration without ending."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.directory = Path()
        self._key = ""
        self._session = 0

    @abstractmethod
    def install(self) -> str:
        """Put it into the cache unless it is there; returns its version. FlexiError with the installer's words."""

    @abstractmethod
    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Write its configuration into `directory`; its command and what its environment needs."""

    def key(self) -> str:
        """What a client has to send as Bearer; empty where nothing is needed. Asked for once it answers."""
        return ""

    def reload(self) -> None:
        """Take the configuration anew. FlexiError where only a restart does."""
        raise FlexiError(f"{self.name} takes no new configuration while it runs")

    @property
    def target(self) -> Target:
        place = Place(LOOPBACK, self.port, self.ground.instances[0].model, self._key)
        return Target(self.name, self.path, (place,))

    def processes(self) -> list[int]:
        """Pids of all its processes."""
        found = processes_in_session(self._session)
        return [pid for pid in found if Path(f"/proc/{pid}").exists()]

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command in the gateway's network, without root's rights."""
        user = pwd.getpwnam(USER)
        away = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
        return [*network.inside(self.ground.namespace), *away, *command]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix=f"flexi-bench-{self.name}-") as directory:
            self.directory = Path(directory)
            command, environment = self.prepare()
            shutil.chown(directory, USER)
            for path in self.directory.rglob("*"):
                shutil.chown(path, USER)
            log = self.directory / "log"
            # Nothing of the caller's: a variable of his could be a secret, his programs unreadable for others.
            clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": directory, "LANG": "C.UTF-8", **environment}
            allow_many_files()
            with log.open("wb") as output:
                started = subprocess.Popen(
                    self.inside(command),
                    cwd=directory,
                    env=clean,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                self._session = started.pid
                try:
                    self._wait(started, log)
                    self._key = self.key()
                    yield
                finally:
                    found = [process for pid in self.processes() if (process := processes.Process.of(pid))]
                    processes.end(found)
                    started.wait()

    def _wait(self, started: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_S
        while not self.answers():
            if started.poll() is not None or time.monotonic() > deadline:
                words = log.read_text(errors="replace").strip()[-1500:]
                raise FlexiError(f"{self.name} does not start:\n{words}")
            time.sleep(0.2)

    def answers(self) -> bool:
        """Whether its port takes connections."""
        ask = f"import socket; socket.create_connection(({LOOPBACK!r}, {self.port}), 2)"
        command = [*network.inside(self.ground.namespace), sys.executable, "-c", ask]
        done = subprocess.run(command, capture_output=True, check=False)
        return done.returncode == 0

    def call(self, path: str, body: object) -> dict[str, object]:
        """A POST of its own API, and the object that it answers."""
        command = self.inside(["curl", "-sS", "-m", "60", "-H", "Content-Type: application/json", "-d", "@-"])
        url = f"http://{LOOPBACK}:{self.port}{path}"
        done = subprocess.run([*command, url], input=json.dumps(body), capture_output=True, text=True, check=False)
        try:
            value = json.loads(done.stdout)
        except ValueError:
            raise FlexiError(f"{self.name}: {path} is answered with {(done.stderr or done.stdout)[:300]}") from None
        return dict(value)


def processes_in_session(session: int) -> list[int]:
    """Pids of a session: what a command started with a session of its own has become."""
    return [pid for pid in _pids() if _session_of(pid) == session]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


class Nginx(Rival):
    """A plain reverse proxy: no keys, no look into the body; one server block, as its documentation has it."""

    name, port = "nginx", 18081

    def install(self) -> str:
        package = "nginx"
        known = subprocess.run(
            ["apt-cache", "show", "--no-all-versions", package], capture_output=True, text=True, check=False
        )
        version = next((line[9:] for line in known.stdout.splitlines() if line.startswith("Version: ")), None)
        if version is None:
            raise FlexiError("apt knows no package nginx: apt-get update")

        def build(path: Path) -> None:
            _run(["apt-get", "download", "-q", package], path)
            (archive,) = path.glob("*.deb")
            _run(["dpkg-deb", "--extract", str(archive), str(path)], path)

        self._binary = entry("nginx", version, build) / "usr/sbin/nginx"
        return version.partition("-")[0]

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        servers = "\n".join(f"    server {place.address}:{place.port};" for place in self.ground.instances)
        self._config = self.directory / "nginx.conf"
        self._config.write_text(
            f"""\
worker_processes {WORKERS};
daemon off;
pid {self.directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {self.directory}/body;
  proxy_temp_path {self.directory}/proxy;
  fastcgi_temp_path {self.directory}/fastcgi;
  uwsgi_temp_path {self.directory}/uwsgi;
  scgi_temp_path {self.directory}/scgi;
  upstream ollama {{
    least_conn;
{servers}
    keepalive 64;
  }}
  server {{
    listen {LOOPBACK}:{self.port} backlog=4096;
    location / {{
      proxy_pass http://ollama;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host localhost;
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
""",
            encoding="ascii",
        )
        return [str(self._binary), "-c", str(self._config), "-p", str(self.directory)], {}

    def reload(self) -> None:
        _run(self.inside([str(self._binary), "-c", str(self._config), "-s", "reload"]), self.directory)


class LiteLlm(Rival):
    """LiteLLM's proxy with one key and no database; a worker for each core, as its guide for production has it.

    `ollama_chat/` is what its documentation names for Ollama.
    """

    name, port = "LiteLLM", 18082
    reloads = False

    def install(self) -> str:
        self._venv = environment("litellm.lock")
        return locked("litellm.lock", "litellm")

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self._master_key = f"sk-{secrets.token_hex(16)}"
        deployments = [
            {
                "model_name": place.model,
                "litellm_params": {
                    "model": f"ollama_chat/{place.model}",
                    "api_base": f"http://{place.address}:{place.port}",
                },
            }
            for place in self.ground.instances
        ]
        config = self.directory / "config.yaml"
        # JSON is YAML.
        config.write_text(
            json.dumps(
                {
                    "model_list": deployments,
                    "general_settings": {"master_key": self._master_key},
                    "litellm_settings": {"telemetry": False, "drop_params": True, "request_timeout": 600},
                }
            ),
            encoding="ascii",
        )
        config.chmod(0o600)
        command = [
            str(self._venv / "bin/python"),
            str(self._venv / "bin/litellm"),
            "--config",
            str(config),
            "--host",
            LOOPBACK,
        ]
        # Under uvicorn a worker that does not answer within 5 s of its start is killed, again and again where
        # importing LiteLLM takes longer than that.
        command += ["--port", str(self.port), "--num_workers", str(WORKERS), "--run_gunicorn"]
        quiet = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        return command, quiet

    def key(self) -> str:
        return self._master_key


class OpenWebUi(Rival):
    """Open WebUI's own proxy in front of Ollama, as its users' programs ask it: /ollama/api/chat with a token.

    Without torch, which it needs for documents and speech only.
    """

    name, port, path = "Open WebUI", 18083, "/ollama/api/chat"
    reloads = False

    def install(self) -> str:
        self._venv = environment("open-webui.lock")
        return locked("open-webui.lock", "open-webui")

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        settings = {
            "DATA_DIR": str(self.directory),
            "WEBUI_SECRET_KEY": secrets.token_hex(16),
            "OLLAMA_BASE_URLS": ";".join(f"http://{place.address}:{place.port}" for place in self.ground.instances),
            "ENABLE_OPENAI_API": "false",
            "RAG_EMBEDDING_ENGINE": "ollama",
            "OFFLINE_MODE": "true",
            "HF_HUB_OFFLINE": "1",
            "ENABLE_VERSION_UPDATE_CHECK": "false",
            "DO_NOT_TRACK": "true",
            "SCARF_NO_ANALYTICS": "true",
            "ANONYMIZED_TELEMETRY": "false",
            "GLOBAL_LOG_LEVEL": "ERROR",
        }
        command = [str(self._venv / "bin/python"), str(self._venv / "bin/open-webui"), "serve"]
        command += ["--host", LOOPBACK, "--port", str(self.port)]
        return command, settings

    def key(self) -> str:
        who = {"name": "Bench", "email": "bench@example.edu", "password": secrets.token_urlsafe(24)}
        return str(self.call("/api/v1/auths/signup", who)["token"])


RIVALS: dict[str, Callable[[Ground], Rival]] = {"nginx": Nginx, "litellm": LiteLlm, "open-webui": OpenWebUi}


def entry(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory of one content in the bench's cache, built whole or not at all."""
    path = HOME / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    with cache.locked(f"bench-{kind}"):
        HOME.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            for other in HOME.glob(f"{kind}-*"):
                shutil.rmtree(other)
            draft = HOME / f".{kind}"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            build(draft)
            draft.rename(path)
    return path


def environment(lock: str) -> Path:
    """A virtual environment with exactly the packages of a lock beside this file."""
    interpreter = shutil.which(PYTHON, path="/usr/bin:/usr/local/bin")
    if interpreter is None:
        raise FlexiError(f"{lock} is for {PYTHON}, which this computer does not have in /usr")

    def build(path: Path) -> None:
        _run([interpreter, "-m", "venv", str(path)], path)
        install = [str(path / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # The lock is complete, and leaves out what the bench does not need: pip must not add it.
        _run([*install, "--no-deps", "--require-hashes", "-r", str(_lock(lock))], path)

    return entry(lock.removesuffix(".lock"), _lock(lock).read_text(encoding="utf-8"), build)


def locked(lock: str, package: str) -> str:
    """The version of a package in a lock beside this file."""
    lines = _lock(lock).read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2].split()[0] for line in lines if line.startswith(f"{package}=="))


def _lock(name: str) -> Path:
    return Path(__file__).with_name(name)


def _run(command: Sequence[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FlexiError(f"{' '.join(command[:4])} …: {(done.stderr or done.stdout).strip()[-1500:]}")
