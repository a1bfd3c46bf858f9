"""Files on the admin's machine with a secret in them that others there may read."""

from __future__ import annotations

import os
from collections.abc import Iterator

from flexi.plan.model.chat import ChatPlan, SecretPlan
from flexi.plan.model.site import Plan, Warning_

_OTHERS = 0o077
"""Any right of the group or of everyone (inode(7))."""


def warnings(plan: Plan) -> list[Warning_]:
    """One for each such file. What is not there is no concern of this."""
    found = []
    for where, path in _files(plan):
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & _OTHERS:
            found.append(Warning_(where=where, message=f"others on this machine may read {path}: chmod 600 {path}"))
    return found


def _files(plan: Plan) -> Iterator[tuple[str, str]]:
    """Key of the site file, dotted, and absolute path."""
    tls = plan.gateway.tls
    if tls and tls.key:
        yield "gateway.tls.key", tls.key
    if tls and tls.acme and tls.acme.account:
        yield "gateway.tls.acme.account", tls.acme.account
    for where, secret in _secrets(plan.chat) if plan.chat else ():
        if secret and secret.file:
            yield where, secret.file


def _secrets(chat: ChatPlan) -> Iterator[tuple[str, SecretPlan | None]]:
    yield "chat.database_url", chat.database_url
    yield "chat.redis_url", chat.redis_url
    ldap, oidc = chat.sign_in.ldap, chat.sign_in.oidc
    yield "chat.sign_in.ldap.bind_password", ldap.bind_password if ldap else None
    yield "chat.sign_in.oidc.client_secret", oidc.client_secret if oidc else None
