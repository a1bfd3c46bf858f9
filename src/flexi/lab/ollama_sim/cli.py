"""The `ollama` command. Source: cmd/cmd.go.

Exit status: 0 fine, 1 an error (one line "Error: …" on standard error), as the real one.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import environment, goformat, log
from .devices import NoDriver, SimulatedDriver
from .server import OllamaServer
from .version import VERSION

Json = dict[str, Any]

_USAGE = """Large language model runner

Usage:
  ollama [flags]
  ollama [command]

Available Commands:
  serve       Start Ollama
  show        Show information for a model
  run         Run a model
  stop        Stop a running model
  pull        Pull a model from a registry
  list        List models
  ps          List running models
  cp          Copy a model
  rm          Remove a model
  help        Help about any command

Flags:
  -h, --help      help for ollama
  -v, --version   Show version information

Use "ollama [command] --help" for more information about a command.
"""


class CommandError(Exception):
    """Ends the command with "Error: …"."""


def main(arguments: list[str]) -> int:
    """Run the command line; the exit status."""
    commands: dict[str, tuple[int, int, Callable[[list[str], set[str]], None]]] = {
        "serve": (0, 0, _serve),
        "start": (0, 0, _serve),
        "list": (0, 1, _list),
        "ls": (0, 1, _list),
        "ps": (0, 1, _ps),
        "pull": (1, 1, _pull),
        "show": (1, 1, _show),
        "run": (1, 10**6, _run),
        "stop": (1, 1, _stop),
        "cp": (2, 2, _copy),
        "rm": (1, 10**6, _remove),
    }
    if arguments[:1] in (["-v"], ["--version"]):
        _version()
        return 0
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        sys.stdout.write(_USAGE)
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in commands:
            raise CommandError(f'unknown command "{name}" for "ollama"')
        least, most, action = commands[name]
        values, flags = _parse(rest)
        if not least <= len(values) <= most:
            wanted = f"accepts {most}" if least == most else f"requires at least {least}"
            tail = f"received {len(values)}" if least == most else f"only received {len(values)}"
            raise CommandError(f"{wanted} arg(s), {tail}")
        action(values, flags)
    except (CommandError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: list[str]) -> tuple[list[str], set[str]]:
    """Values and flags; `--keepalive 5m` becomes the flag "--keepalive=5m"."""
    values: list[str] = []
    flags: set[str] = set()
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            values += rest
        elif argument in ("--keepalive", "--format"):
            flags.add(f"{argument}={next(rest, '')}")
        elif argument.startswith("-") and argument != "-":
            flags.add(argument)
        else:
            values.append(argument)
    return values, flags


def _flag(flags: set[str], name: str) -> str:
    return next((flag.partition("=")[2] for flag in flags if flag.startswith(f"{name}=")), "")


def simulated_driver(root: Path) -> SimulatedDriver:
    """The simulated driver of this machine, or none where the lab's part is not there."""
    try:
        from ..gpu_sim import driver
    except ImportError:
        return NoDriver()
    return driver.Driver(root)


def _serve(values: list[str], flags: set[str]) -> None:
    log.configure()
    settings = environment.read_environment(os.environ)
    _make_keys(settings.home / ".ollama")
    try:
        server = OllamaServer(settings, simulated_driver(settings.root), VERSION)
    except OSError as error:
        raise CommandError(f"listen tcp {settings.address}: bind: {(error.strerror or str(error)).lower()}") from None
    server.run()


def _make_keys(directory: Path) -> None:
    """The key pair of the first start; only its presence matters here."""
    private = directory / "id_ed25519"
    if private.exists():
        return
    print(f"Couldn't find '{private}'. Generating new private key.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"could not create directory mkdir {directory}: {(error.strerror or '').lower()}") from None
    public = f"ssh-ed25519 {secrets.token_urlsafe(51)}\n"
    private.touch(mode=0o600)
    private.write_text("-----BEGIN SIMULATED PRIVATE KEY-----\n-----END SIMULATED PRIVATE KEY-----\n")
    (directory / "id_ed25519.pub").write_text(public)
    print(f"Your new public key is: \n\n{public}")


# Client side


def _request(method: str, path: str, body: Json | None = None) -> Iterator[Json]:
    """The JSON objects of an answer, line by line; CommandError for errors, also those inside a stream."""
    settings = environment.read_environment(os.environ)
    parts = urlsplit(settings.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=None)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        for line in response:
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except json.JSONDecodeError:
                raise CommandError(line.decode("utf-8", "replace").strip()) from None
            if "error" in item:
                if response.status >= 400:
                    raise CommandError(f"{response.status} {response.reason}: {item['error']}")
                raise CommandError(str(item["error"]))
            yield item
        if response.status >= 400:
            raise CommandError(f"{response.status} {response.reason}")
    except ConnectionRefusedError:
        raise CommandError("could not connect to ollama server, run 'ollama serve' to start it") from None
    finally:
        connection.close()


def _one(method: str, path: str, body: Json | None = None) -> Json:
    return next(_request(method, path, body), {})


def _version() -> None:
    server = ""
    try:
        server = str(_one("GET", "/api/version").get("version", ""))
    except (CommandError, OSError):
        print("Warning: could not connect to a running Ollama instance")
    if server:
        print(f"ollama version is {server}")
    if server != VERSION:
        print(f"Warning: client version is {VERSION}")


def _table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def _list(values: list[str], flags: set[str]) -> None:
    now = goformat.now_ns()
    rows = []
    for model in _one("GET", "/api/tags")["models"]:
        if not values or model["name"].lower().startswith(values[0].lower()):
            when = goformat.human_time(goformat.parse_rfc3339(model["modified_at"]), now)
            rows.append([model["name"], model["digest"][:12], goformat.human_bytes(model["size"]), when])
    _table(["NAME", "ID", "SIZE", "MODIFIED"], rows)


def _ps(values: list[str], flags: set[str]) -> None:
    now = goformat.now_ns()
    rows = []
    for model in _one("GET", "/api/ps")["models"]:
        if values and not model["name"].startswith(values[0]):
            continue
        expires = goformat.parse_rfc3339(model["expires_at"])
        until = "Stopping..." if expires < now else goformat.human_time(expires, now)
        size = goformat.human_bytes(model["size"])
        rows.append([model["name"], model["digest"][:12], size, _processor(model["size"], model["size_vram"]),
                     str(model["context_length"]), until])  # fmt: skip
    _table(["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"], rows)


def _processor(size: int, vram: int) -> str:
    if vram == 0:
        return "100% CPU"
    if vram == size:
        return "100% GPU"
    if vram > size:
        return "Unknown"
    cpu = round((size - vram) / size * 100)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def _pull(values: list[str], flags: set[str]) -> None:
    shown = ""
    for item in _request("POST", "/api/pull", {"name": values[0], "insecure": "--insecure" in flags}):
        status = item["status"]
        if item.get("total") and item.get("completed") == item["total"]:
            status = f"{status}: 100% {goformat.human_bytes(item['total'])}"
        elif item.get("total"):
            continue
        if status != shown:
            sys.stderr.write(status + "\n")
            shown = status


def _show(values: list[str], flags: set[str]) -> None:
    shown = _one("POST", "/api/show", {"model": values[0]})
    for flag in ("license", "modelfile", "parameters", "template", "system"):
        if f"--{flag}" in flags:
            print(shown.get(flag, ""))
            return
    info, details = shown["model_info"], shown["details"]
    architecture = info.get("general.architecture", "")
    rows = [
        ("architecture", architecture),
        ("parameters", details["parameter_size"]),
        ("context length", info.get(f"{architecture}.context_length", "")),
        ("embedding length", info.get(f"{architecture}.embedding_length", "")),
        ("quantization", details["quantization_level"]),
    ]
    print("  Model")
    for key, value in rows:
        print(f"    {key:<20}{value}")
    print("\n  Capabilities")
    for capability in shown.get("capabilities", ()):
        print(f"    {capability}")
    if shown.get("parameters"):
        print("\n  Parameters")
        for line in shown["parameters"].splitlines():
            print(f"    {line}")
    print()


def _run(values: list[str], flags: set[str]) -> None:
    model, prompt = values[0], " ".join(values[1:])
    if not sys.stdin.isatty():
        prompt = "\n".join(part for part in (sys.stdin.read().strip(), prompt) if part)
    request: Json = {"model": model, "prompt": prompt}
    keep_alive = _flag(flags, "--keepalive")
    if keep_alive:
        try:
            goformat.parse_duration(keep_alive)
        except ValueError as error:
            raise CommandError(str(error)) from None
        request["keep_alive"] = keep_alive
    known = [entry["name"] for entry in _one("GET", "/api/tags")["models"]]
    if model not in known and f"{model}:latest" not in known:
        _pull([model], flags)
    for item in _request("POST", "/api/generate", request):
        sys.stdout.write(item["response"])
        sys.stdout.flush()
    if prompt:
        print("\n")


def _stop(values: list[str], flags: set[str]) -> None:
    try:
        _one("POST", "/api/generate", {"model": values[0], "keep_alive": 0})
    except CommandError as error:
        if "not found" in str(error):
            raise CommandError(f'couldn\'t find model "{values[0]}" to stop') from None
        raise


def _copy(values: list[str], flags: set[str]) -> None:
    _one("POST", "/api/copy", {"source": values[0], "destination": values[1]})
    print(f"copied '{values[0]}' to '{values[1]}'")


def _remove(values: list[str], flags: set[str]) -> None:
    for value in values:
        _one("DELETE", "/api/delete", {"name": value})
        print(f"deleted '{value}'")
