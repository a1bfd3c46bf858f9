"""The gateway's certificate and network interface."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.command import QuoteString


@dataclass(frozen=True)
class CertificateState:
    """The certificate that HAProxy has, and the one that certbot last got."""

    sha256: str | None = None
    """SHA-256 of the file with certificate, chain and key; None where there is none."""
    self_signed: bool = False
    """Made by flexi's own program on the host."""
    names: frozenset[str] = frozenset()
    """Names in the form of `TlsPlan.names`."""
    lasts: bool = False
    """Valid for at least 30 days more."""
    ordered_sha256: str | None = None
    """SHA-256 of certbot's newest certificate, chain and key together."""


class GatewayCertificate(FactBase[CertificateState]):
    """State of the certificate file `path`."""

    default = CertificateState

    def command(self, path: str) -> StringCommand:
        file, lineage = shlex.quote(path), "/etc/letsencrypt/live/flexi"
        digest = "cut -d' ' -f1"
        script = (
            f"[ ! -e {lineage}/privkey.pem ] || "
            f'echo "ordered $(cat {lineage}/fullchain.pem {lineage}/privkey.pem | sha256sum | {digest})"; '
            f'[ -e {file} ] || exit 0; echo "sha256 $(sha256sum {file} | {digest})"; '
            f"openssl x509 -in {file} -noout -subject -issuer -nameopt RFC2253 -ext subjectAltName 2>/dev/null; "
            f"openssl x509 -in {file} -noout -checkend {30 * 86400} >/dev/null 2>&1 && echo lasts; true"
        )
        return StringCommand("sh", "-c", QuoteString(script))

    def process(self, output: list[str]) -> CertificateState:
        words = dict(
            line.split("=" if line.startswith(("subject=", "issuer=")) else " ", 1)
            for line in output
            if re.match(r"(ordered|sha256) |(subject|issuer)=", line)
        )
        names = re.findall(r"(DNS|IP) ?(?:Address)?:([^,\s]+)", " ".join(output))
        return CertificateState(
            sha256=words.get("sha256"),
            self_signed=words.get("subject") == words.get("issuer") == "CN=flexi gateway (self-signed)",
            names=frozenset(f"{kind}:{name}" for kind, name in names),
            lasts="lasts" in output,
            ordered_sha256=words.get("ordered"),
        )


class InterfaceWithAddress(FactBase[str | None]):
    """The network interface that has the IPv4 `address`; None where none has it."""

    def command(self, address: str) -> StringCommand:
        return StringCommand("ip", "-o", "-4", "address", "show", "to", QuoteString(address))

    def process(self, output: list[str]) -> str | None:
        """`2: eth0    inet 10.87.0.10/24 scope global eth0\\ …` (ip-address(8), -oneline)."""
        return output[0].split()[1] if output else None
