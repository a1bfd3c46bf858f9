"""The chat: releases of Open WebUI side by side, its secrets, and how the gateway knows its key."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence
from urllib.parse import urlsplit

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.facts.files import File, FileContents

from flexi.catalog import chat_lock, uv_lock
from flexi.catalog.consumers import CHAT_CONSUMER
from flexi.components import chat
from flexi.components.chat import PROOF
from flexi.components.chat_programs import chat_program
from flexi.facts.chat import CHAT_KEY_DIGEST, ChatKeyDigest
from flexi.facts.releases import ChatReleases
from flexi.operations import releases
from flexi.operations.host_failure import fail_host
from flexi.plan.model.chat import ChatHostPlan

Commands = Generator[StringCommand, None, None]

RELEASES = ChatReleases.root
CURRENT_DIGEST = f"{RELEASES}/current/{ChatReleases.mark}"
"""File that changes with the release in use."""
SECRETS = "/etc/flexi/chat-secrets.env"


@operation()
def install_release(chat_host: ChatHostPlan) -> Commands:
    """Make the venv of the planned release beside the one in use, each of its packages checked by hash.

    It counts once its digest is in it: interrupted at any point, the next run makes it anew.
    """
    if chat_host.release in host.get_fact(ChatReleases).installed:
        host.noop(f"Open WebUI {chat_host.version} is installed")
        return
    yield StringCommand("mkdir", "-p", RELEASES)
    yield _write_text(chat_lock(chat_host.version), f"{RELEASES}/packages.lock")
    yield _write_text(uv_lock(), f"{RELEASES}/uv.lock")
    yield StringCommand("sh", "-c", QuoteString(venv_script(chat_host)))


def _write_text(content: str, dest: str) -> StringCommand:
    return StringCommand("sh", "-c", QuoteString(f"cat >{shlex.quote(dest)}"), _stdin=content)


def venv_script(chat_host: ChatHostPlan, root: str = RELEASES) -> str:
    """Return the POSIX shell script that makes a release's venv below `root`, where its locks lie; 1 if it cannot."""
    parts = urlsplit(chat_host.index or "")
    trusted = f"--trusted-host {shlex.quote(parts.netloc)}" if parts.scheme == "http" else ""
    index = shlex.quote(chat_host.index) if chat_host.index else ""
    return _VENV.format(
        root=root,
        release=shlex.quote(chat_host.release),
        version=shlex.quote(chat_host.version),
        python=shlex.quote(chat_host.python),
        pip_index=f"-i {index} {trusted}" if index else "",
        uv_index=f"--default-index {index}" if index else "",
        mark=ChatReleases.mark,
    ).strip()


_VENV = """
set -eu
umask 022
cd {root}
release={release}
rm -rf .tools .cache "$release"
export HOME={root}/.cache PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONFIG_FILE=/dev/null
{python} -m venv .tools
.tools/bin/pip install -q --no-cache-dir --only-binary :all: --require-hashes {pip_index} -r uv.lock
export UV_CACHE_DIR={root}/.cache UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1 UV_NO_PROGRESS=1
.tools/bin/uv venv -q --python {python} "$release"
.tools/bin/uv pip install -q --python "$release/bin/python" --no-deps --only-binary :all: --require-hashes \\
  --compile-bytecode {uv_index} -r packages.lock
got=$("$release/bin/python" -c 'from importlib.metadata import version; print(version("open-webui"))')
[ "$got" = {version} ] || {{ echo "the packages are of Open WebUI $got, wanted {version}" >&2; exit 1; }}
sha256sum packages.lock | cut -d' ' -f1 >"$release/{mark}.new"
mv -f "$release/{mark}.new" "$release/{mark}"
rm -rf .tools .cache packages.lock uv.lock
"""


@operation()
def switch_release(release: str) -> Commands:
    """Make `release` current; of a chat in use the database is copied before."""
    keep = _while_stopped(chat_program("webui.schema", "keep"))
    yield from releases.switch(ChatReleases, release, before=[keep])


@operation()
def roll_back(chat_host: ChatHostPlan) -> Generator[StringCommand | FunctionCommand, None, None]:
    """Make the release before the site file's current, the database with it; a host that runs another is back already.

    Fails the host where there is none, or where the database cannot go back: the chat runs on then.
    """
    present = host.get_fact(ChatReleases)
    if present.current is not None and present.current != chat_host.release:
        host.noop(f"{present.current} is current, which is not the site file's {chat_host.release}")
        return
    previous = releases.previous_of(present)
    if previous is None:
        yield fail_host("has no previous Open WebUI: it was never changed here. Set chat.version and deploy")
        return
    packages = f"{RELEASES}/{previous}/lib/{chat_host.python.rsplit('/', 1)[-1]}/site-packages"
    yield _while_stopped(chat_program("webui.schema", "back", packages))
    yield from releases.swap(ChatReleases, previous, chat_host.release)


def _while_stopped(command: str) -> StringCommand:
    """Run the shell `command` while nobody writes to the database; where it fails the chat goes on."""
    unit = chat.UNIT
    script = f"systemctl stop {unit}; {command} >&2 || {{ systemctl start {unit}; exit 1; }}"
    return StringCommand("sh", "-c", QuoteString(script))


@operation()
def remove_old_releases(release: str, after: Sequence[OperationMeta]) -> Commands:
    """Remove releases that nobody goes back to: 900 MB each. `after` is the switch to `release`."""
    yield from releases.remove_old(ChatReleases, release, after)


@operation()
def make_secrets(path: str = SECRETS) -> Commands:
    """Make what the chat keeps secret, where it is used and only once: what signs its sessions, the password of its
    internal account, and its key at the gateway, whose SHA-256 the gateway fetches. Root alone can read them."""
    there, digest = host.get_fact(File, path=path), host.get_fact(ChatKeyDigest)
    if there and digest:
        host.noop("they are there")
        return
    yield StringCommand("sh", "-c", QuoteString(secrets_script(path)))


def secrets_script(path: str = SECRETS, digest: str = CHAT_KEY_DIGEST) -> str:
    """Return the POSIX shell script that makes the secrets; what is in `path` already stays."""
    return _SECRETS.format(path=path, digest=digest).strip()


_SECRETS = """
set -eu
umask 077
random() {{ od -An -N32 -tx1 /dev/urandom | tr -d ' \\n'; }}
if [ ! -s '{path}' ]; then
  key=$(random)
  {{
    echo '# Made by flexi on this host, once. What is lost with it: sessions, and what Open WebUI has encrypted.'
    echo "WEBUI_SECRET_KEY=$(random)"
    echo "WEBUI_ADMIN_PASSWORD=$(random)"
    echo "OLLAMA_API_CONFIGS='{{\\"0\\": {{\\"enable\\": true, \\"key\\": \\"$key\\"}}}}'"
    echo "RAG_OLLAMA_API_KEY=$key"
  }} >'{path}.new'
  mv -f '{path}.new' '{path}'
fi
key=$(sed -n 's/^RAG_OLLAMA_API_KEY=//p' '{path}')
umask 022
printf %s "$key" | sha256sum | cut -d' ' -f1 >'{digest}.new'
mv -f '{digest}.new' '{digest}'
"""


@operation()
def make_proxy_secret(path: str = PROOF) -> Commands:
    """Make what Apache in front of the chat shows with the headers that say who comes; once, and on this host only."""
    if host.get_fact(File, path=path):
        host.noop("it is there")
        return
    random = "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')"
    script = f"set -e; umask 077; echo FLEXI_PROOF={random} >{path}.new; mv -f {path}.new {path}"
    yield StringCommand("sh", "-c", QuoteString(script))


@operation()
def write_key_map(dest: str, chat_host_name: str | None) -> Commands:
    """Let HAProxy's map `dest` hold the digest of the key of the chat on `chat_host`; nothing where there is no chat.

    A chat's host that is not in this run changes nothing: its key is the one that it was.
    """
    current = host.get_fact(FileContents, path=dest)
    digest = _key_digest(chat_host_name) if chat_host_name else None
    line = f"{digest} {CHAT_CONSUMER}" if digest else _EMPTY_KEY_MAP
    unknown = chat_host_name is not None and digest is None
    # In a dry run: it is made earlier in this very run.
    comes = unknown and not host.state.is_executing and _host_in_run(chat_host_name or "") is not None
    if not comes and (current == [line] or (unknown and current is not None)):
        host.noop("it is known")
        return
    new = shlex.quote(f"{dest}.new")
    script = f"set -e; umask 027; cat >{new}; chgrp haproxy {new}; mv -f {new} {shlex.quote(dest)}"
    yield StringCommand("sh", "-c", QuoteString(script), _stdin=f"{line}\n")


_EMPTY_KEY_MAP = "# There is no chat."


def _host_in_run(name: str) -> Host | None:
    """Return the host called `name`, where it belongs to this run and has not failed."""
    state = host.state
    active = [other for other in state.inventory.get_active_hosts() if state.is_host_in_limit(other)]
    return next((other for other in active if other.name == name), None)


def _key_digest(chat_host: str) -> str | None:
    there = _host_in_run(chat_host)
    return None if there is None else there.get_fact(ChatKeyDigest)
