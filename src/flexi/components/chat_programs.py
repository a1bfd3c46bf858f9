"""Programs of ours beside the chat, as a shell on the chat's host starts them: with its user, settings and secrets."""

from __future__ import annotations

import shlex

from flexi.components import chat
from flexi.components.chat import CURRENT, DATA, GIVEN, PACKAGE, SECRETS, SETTINGS, USER

PYTHON = f"{CURRENT}/bin/python"
_PROPERTIES = (
    f"EnvironmentFile={SETTINGS}",
    f"EnvironmentFile={SECRETS}",
    f"EnvironmentFile=-{GIVEN}",
    f"Environment=PYTHONPATH={PACKAGE} PYTHONDONTWRITEBYTECODE=1",
    f"WorkingDirectory={DATA}",
    "UMask=0077",
    "NoNewPrivileges=yes",
    "PrivateTmp=yes",
    "ProtectHome=yes",
    "ProtectSystem=strict",
    f"ReadWritePaths={DATA}",
)


def chat_program(module: str, *arguments: str) -> str:
    """A command for root's shell that runs a module of `flexi_chat`; input, output and exit status are its own.

    systemd reads the secrets, as for the chat itself: they are in no argument and no file that the user can read.
    """
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec"]
    run += [f"--uid={USER}", f"--gid={USER}"]
    run += [f"--property={each}" for each in _PROPERTIES]
    return shlex.join([*run, PYTHON, "-P", "-m", f"flexi_chat.{module}", *arguments])


def chat_program_as_root(module: str, *arguments: str) -> str:
    """Return the shell words that run a module of `flexi_chat` as whoever calls, with nothing of the folder it is in.

    For root, who reads and writes what the chat's user may not: backups, and how the chat is.
    """
    python = f"{chat.CURRENT}/bin/python"
    return shlex.join(["env", f"PYTHONPATH={chat.PACKAGE}", python, "-P", "-m", f"flexi_chat.{module}", *arguments])
