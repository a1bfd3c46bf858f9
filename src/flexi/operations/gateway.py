"""The key with which the health checks ask the gateway."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation
from pyinfra.facts.files import File


@operation()
def make_health_key(key_header: str, key_map: str, consumer: str) -> Generator[StringCommand, None, None]:
    """Make a random key on the host: `key_header` holds it as an HTTP header (root only), `key_map` its SHA-256.

    The key is made where it is used, so it is never in an argument, a log or on the admin's machine.
    """
    if host.get_fact(File, path=key_header) and host.get_fact(File, path=key_map):
        host.noop("the key is there")
        return
    script = f"""
set -eu
umask 077
key=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \\n')
printf 'Authorization: Bearer %s\\n' "$key" >'{key_header}.new'
printf '%s {consumer}\\n' "$(printf %s "$key" | sha256sum | cut -d' ' -f1)" >'{key_map}.new'
chown root:haproxy '{key_map}.new'
chmod 0640 '{key_map}.new'
mv -f '{key_map}.new' '{key_map}'
mv -f '{key_header}.new' '{key_header}'
"""
    yield StringCommand("sh", "-c", QuoteString(script.strip()))
