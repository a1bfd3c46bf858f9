"""Where people's accounts come from, beside the lab's machines: a real OpenLDAP and a real provider of OpenID Connect.

Both run on 10.87.0.2, in the lab's own network. OpenLDAP is Debian's, fetched by this computer's apt and unpacked;
nothing is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from lab_site import run, until

from flexi.lab import cache, network
from flexi.lab.lifecycle import Lab
from flexi.lab.topology import SERVICES_ADDRESS

PACKAGES = ("slapd", "libldap-2.5-0", "libsasl2-2", "libltdl7", "libwrap0", "libodbc2")
LDAP_NAME = "ldap.lab.test"
LDAP_PORT, OIDC_PORT = 636, 9400
BASE = "dc=lab,dc=test"
READER, READERS_PASSWORD = f"cn=flexi,{BASE}", "reads-only"
SUFFIXES = "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu"


def unpacked(packages: Sequence[str]) -> Path:
    """A cached directory with what Debian's `packages` hold."""

    def build(directory: Path) -> None:
        got = run(["sh", "-c", 'cd "$1" && shift && apt-get download -qq "$@"', "-", str(directory), *packages])
        assert got.status == 0, got.text
        for package in directory.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(directory)], check=True)
            package.unlink()

    versions = run(["apt-cache", "policy", *packages]).stdout
    return cache.entry("slapd", hashlib.sha256(versions.encode()).hexdigest()[:16], build)


def authority(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate for `name` that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = directory / "ldap.pem", directory / "ldap.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


class Directory:
    """OpenLDAP with the people that it is given, over TLS."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._root = unpacked(PACKAGES)
        self._directory = directory
        self._namespace = network.inside(lab.naming.namespace(network.SERVICES_NAME))
        self.certificate, self._key = authority(directory, LDAP_NAME)
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def _libraries(self) -> dict[str, str]:
        return os.environ | {"LD_LIBRARY_PATH": ":".join(f"{self._root}{suffix}" for suffix in SUFFIXES)}

    def serve(self, people: Mapping[str, Sequence[str]]) -> None:
        """These people alone, by user name, each with groups; everybody's password is `of-<name>`."""
        self.close()
        data = self._directory / "data"
        subprocess.run(["rm", "-rf", str(data)], check=True)
        data.mkdir()
        schemas = "".join(f"include {self._root}/etc/ldap/schema/{name}.schema\n" for name in SCHEMAS)
        config = self._directory / "slapd.conf"
        config.write_text(
            f"{schemas}pidfile {self._directory}/slapd.pid\nmodulepath {self._root}/usr/lib/ldap\nmoduleload back_mdb\n"
            f"TLSCertificateFile {self.certificate}\nTLSCertificateKeyFile {self._key}\n"
            f'database mdb\nsuffix "{BASE}"\nrootdn "{READER}"\nrootpw {READERS_PASSWORD}\ndirectory {data}\n'
            "access to attrs=userPassword by anonymous auth by * none\naccess to * by * none\n"
        )
        entries = [f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: lab\no: Lab\n"]
        for name, groups in people.items():
            lines = [f"dn: uid={name},{BASE}", "objectClass: inetOrgPerson", f"uid: {name}", "sn: Lab"]
            lines += [f"cn: {name.title()} vom Labor", f"mail: {name}@lab.test", f"userPassword: of-{name}"]
            entries.append("\n".join([*lines, *(f"seeAlso: cn={group},ou=groups,{BASE}" for group in groups), ""]))
        ldif = self._directory / "people.ldif"
        ldif.write_text("\n".join(entries), encoding="utf-8")
        slapd = [f"{self._root}/usr/sbin/slapd"]
        added = subprocess.run(
            [*slapd, "-Tadd", "-f", str(config), "-l", str(ldif)], env=self._libraries, capture_output=True, check=False
        )
        assert added.returncode == 0, added.stderr
        listen = f"ldaps://{SERVICES_ADDRESS}:{LDAP_PORT}"
        self._server = subprocess.Popen(
            [*self._namespace, *slapd, "-d", "0", "-f", str(config), "-h", listen], env=self._libraries
        )
        _until_it_listens(self._namespace, LDAP_PORT)

    def close(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(timeout=20)


SCHEMAS = ("core", "cosine", "inetorgperson")


@contextmanager
def provider(lab: Lab, people: Sequence[Mapping[str, object]], log: Path) -> Iterator[None]:
    """OpenID Connect for `people`, each the claims of one."""
    namespace = network.inside(lab.naming.namespace(network.SERVICES_NAME))
    command = [str(Path(sys.executable).with_name("oidc-provider-mock")), "-H", SERVICES_ADDRESS, "-p", str(OIDC_PORT)]
    for claims in people:
        command += ["--user-claims", json.dumps(claims)]
    with log.open("wb") as file:
        server = subprocess.Popen([*namespace, *command], stdout=file, stderr=file)
        try:
            _until_it_listens(namespace, OIDC_PORT)
            yield
        finally:
            server.terminate()
            server.wait(timeout=20)


def _until_it_listens(namespace: Sequence[str], port: int) -> None:
    ask = f"import socket; socket.create_connection(('{SERVICES_ADDRESS}', {port}), 1)"
    until(lambda: run([*namespace, sys.executable, "-c", ask]).status == 0, 30, f"something listens on port {port}")
