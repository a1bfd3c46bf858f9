"""What the chat needs of the admin's machine: texts, certificates and the secrets that others gave.

Looked at before any host is touched, and read again when it is brought.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from flexi.errors import InputError
from flexi.plan.model.chat import AgreementPlan, ChatPlan, SecretPlan
from flexi.plan.model.site import Plan

_PATIENCE_S = 120.0
"""A password store may ask for a passphrase first."""


def check(plan: Plan) -> None:
    """InputError where something is not here or does not serve."""
    if plan.chat is None:
        return
    if plan.chat.agreement:
        agreement_files(plan.chat.agreement)
    if plan.chat.logo:
        check_picture(plan.chat.logo)
    sign_in = plan.chat.sign_in
    if sign_in.ldap and sign_in.ldap.ca:
        certificate = text(sign_in.ldap.ca, "chat.sign_in.ldap.ca")
        if "-----BEGIN CERTIFICATE-----" not in certificate:
            raise InputError(f"chat.sign_in.ldap.ca: {sign_in.ldap.ca} holds no certificate (PEM)")
    if sign_in.trusted_headers:
        text(sign_in.trusted_headers.apache, "chat.sign_in.trusted_headers.apache")
    given_secrets(plan.chat)


_PNG = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG (RFC 2083, 3.1)."""


def check_picture(path: str) -> None:
    """InputError unless `path` is a PNG."""
    try:
        with Path(path).open("rb") as file:
            begin = file.read(len(_PNG))
    except OSError as error:
        reason = (error.strerror or "no file").lower()
        raise InputError(f"chat.logo: {path} cannot be read ({reason}): put the file there") from None
    if begin != _PNG:
        raise InputError(f"chat.logo: {path} is no PNG: convert it")


def agreement_files(agreement: AgreementPlan) -> Mapping[str, str]:
    """Names and contents of the files that `flexi_chat.gate.agreement` reads."""
    files = {"version": f"{agreement.version}\n"}
    for language, path in (("de", agreement.de), ("en", agreement.en)):
        if path is None:
            continue
        files[f"{language}.md"] = text(path, f"chat.agreement.{language}")
        if not files[f"{language}.md"].strip():
            raise InputError(f"chat.agreement.{language}: {path} is empty: write the agreement there")
    return files


def given_secrets(chat: ChatPlan) -> tuple[tuple[str, str], ...]:
    """Open WebUI's names and the values of the secrets that others gave."""
    ldap, oidc = chat.sign_in.ldap, chat.sign_in.oidc
    found: list[tuple[str, str, SecretPlan | None]] = [
        ("LDAP_APP_PASSWORD", "chat.sign_in.ldap.bind_password", ldap.bind_password if ldap else None),
        # With a password in it.
        ("DATABASE_URL", "chat.database_url", chat.database_url),
        ("REDIS_URL", "chat.redis_url", chat.redis_url),
        ("OAUTH_CLIENT_SECRET", "chat.sign_in.oidc.client_secret", oidc.client_secret if oidc else None),
    ]
    return tuple((name, secret(given, where)) for name, where, given in found if given is not None)


def secret(given: SecretPlan, where: str) -> str:
    """One line: what the file holds or the command prints. `where` names the key of the site file."""
    if given.file is not None:
        value, source = text(given.file, where), given.file
    else:
        assert given.command is not None
        value, source = _printed(given.command, given.folder, where), f"`{given.command}`"
    value = value.rstrip("\r\n")
    if not value or not value.isprintable():
        raise InputError(f"{where}: {source} gives no secret of one line: the secret and nothing else")
    return value


def _printed(command: str, folder: str, where: str) -> str:
    try:
        done = subprocess.run(
            ["sh", "-c", command], cwd=folder, stdout=subprocess.PIPE, text=True, timeout=_PATIENCE_S, check=False
        )
    except (subprocess.TimeoutExpired, UnicodeDecodeError):
        raise InputError(
            f"{where}: `{command}` prints no secret within {_PATIENCE_S:.0f} s: {_by_hand(folder)}"
        ) from None
    if done.returncode:
        raise InputError(f"{where}: `{command}` failed with status {done.returncode}: {_by_hand(folder)}")
    return done.stdout


def _by_hand(folder: str) -> str:
    return f"try it in a shell, in {folder}"


def text(path: str, where: str) -> str:
    """A UTF-8 file's content; InputError that names the key `where` of the site file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        remedy = "put the file there" if isinstance(error, FileNotFoundError) else "check its name and permissions"
        reason = (error.strerror or "no file").lower()
        raise InputError(f"{where}: {path} cannot be read ({reason}): {remedy}") from None
    except ValueError:
        raise InputError(f"{where}: {path} is no text in UTF-8: save it as UTF-8") from None
