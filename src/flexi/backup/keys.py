"""age's keys: who a backup is for, and who opens it (age-encryption.org/v1)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyrage

from flexi.errors import InputError

_PREFIX = "AGE-SECRET-KEY-"
_SSH = "-----BEGIN OPENSSH PRIVATE KEY-----"


def recipients(texts: Sequence[str]) -> list[Any]:
    """Public keys: `age1…`, or of SSH (ssh-ed25519, ssh-rsa). InputError for none, and for what is no key."""
    if not texts:
        raise InputError(
            "the site has nobody to encrypt a backup for: make a key with `age-keygen -o flexi-backup.key`, keep it "
            "off the site's hosts, and set chat.backup.recipients to its public key (age1…)"
        )
    return [_recipient(text) for text in texts]


def _recipient(text: str) -> Any:
    try:
        kind = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
        return kind.from_str(text)
    except pyrage.RecipientError:
        raise InputError(f"chat.backup.recipients: {text!r} is no public key of age") from None


def identities(path: Path) -> list[Any]:
    """The private keys in a file as age-keygen writes it, or of SSH without a passphrase; `-` is standard input.

    InputError where there is none.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        text = data.decode()
    except OSError as error:
        raise InputError(f"--identity {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--identity {path}: holds no private key of age") from None
    try:
        if text.lstrip().startswith(_SSH):
            return [pyrage.ssh.Identity.from_buffer(data)]
        found = [line.strip() for line in text.splitlines() if line.strip().startswith(_PREFIX)]
        if found:
            return [pyrage.x25519.Identity.from_str(line) for line in found]
    except (pyrage.IdentityError, ValueError):
        pass
    # Never a word of what the file holds.
    raise InputError(f"--identity {path}: holds no private key of age (AGE-SECRET-KEY-…), or one with a passphrase")
