"""Certificate files of the admin's machine: read, and looked at before any host is touched."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from flexi.errors import InputError
from flexi.plan.model.gateway import GatewayPlan
from flexi.plan.model.site import Plan

_HERE = "gateway.tls"


@dataclass(frozen=True)
class ExternalAccount:
    """External account binding of an ACME authority (RFC 8555, 7.3.4)."""

    kid: str
    hmac_key: str


def check(plan: Plan, now: datetime | None = None) -> None:
    """InputError where a file that the gateway's TLS needs is not here or does not serve."""
    tls = plan.gateway.tls
    if tls is None:
        return
    if tls.acme:
        external_account(tls.acme.account)
    if tls.certificate:
        _check_files(plan.gateway, now or datetime.now(UTC))


def pem(certificate: str, key: str) -> str:
    """The two files as HAProxy reads them: certificate, chain, key."""
    return "".join(_text(file, what).rstrip() + "\n" for file, what in ((certificate, "certificate"), (key, "key")))


def external_account(file: str | None) -> ExternalAccount | None:
    """What the file of `gateway.tls.acme.account` holds; None where the site names none."""
    if file is None:
        return None
    what = f"{_HERE}.acme.account: {file}"
    try:
        given = json.loads(_text(file, "acme.account"))
        account = ExternalAccount(**given)
    except (ValueError, TypeError):
        # Not the error's own words: they may quote the secret.
        raise InputError(f'{what} is not of the form {{"kid": "…", "hmac_key": "…"}}') from None
    for value in (account.kid, account.hmac_key):
        # It stands in certbot's settings file, one line a value.
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value.strip():
            raise InputError(f"{what}: kid and hmac_key are one line of text each, as the authority shows them")
    return account


def _text(file: str, what: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii")
    except OSError as error:
        reason = (error.strerror or "no file").lower()
        raise InputError(f"{_HERE}.{what}: {file} cannot be read ({reason}): put the file there") from None
    except ValueError:
        raise InputError(f"{_HERE}.{what}: {file} is no text file: convert it to PEM with openssl") from None


def _check_files(gateway: GatewayPlan, now: datetime) -> None:
    tls = gateway.tls
    assert tls is not None
    assert tls.certificate is not None
    assert tls.key is not None
    here = f"{_HERE}.certificate: {tls.certificate}"
    try:
        chain = x509.load_pem_x509_certificates(_text(tls.certificate, "certificate").encode())
    except ValueError:
        raise InputError(f"{here} holds no certificate in PEM") from None
    leaf = chain[0]
    public = _public_key(tls.key)
    if _der(leaf) != public:
        if public in map(_der, chain):
            raise InputError(f"{here}: the gateway's own certificate must come first, then those above it")
        raise InputError(f"{_HERE}.key: {tls.key} is not the key of {tls.certificate}")
    for name in tls.domains:
        if not _covers(leaf, name):
            raise InputError(f"{here} is not for {name}, but for {', '.join(_names(leaf)) or 'no name at all'}")
    if leaf.not_valid_after_utc <= now:
        ended = leaf.not_valid_after_utc.date().isoformat()
        raise InputError(f"{here} ended on {ended}: put the renewed one there, or order it with acme")


def _public_key(file: str) -> bytes:
    data = _text(file, "key").encode()
    try:
        public = load_pem_private_key(data, None).public_key()
    except TypeError:
        remedy = f"write one without: openssl pkey -in {file} -out {file}.plain"
        raise InputError(f"{_HERE}.key: {file} has a passphrase, which nobody can type at boot; {remedy}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{_HERE}.key: {file} holds no private key in PEM") from None
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names(leaf: x509.Certificate) -> list[str]:
    """Names that clients go by; they ignore the common name (RFC 9110, 4.3.4)."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return [*found.get_values_for_type(x509.DNSName), *addresses]


def _covers(leaf: x509.Certificate, name: str) -> bool:
    """RFC 9525, 6.3: a wildcard stands for the whole first label, and for nothing of an address."""
    names = [found.lower() for found in _names(leaf)]
    try:
        return str(ipaddress.ip_address(name)) in names
    except ValueError:
        return name in names or f"*.{name.partition('.')[2]}" in names
