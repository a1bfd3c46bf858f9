"""Names and addresses that a site file may use, and why not others.

Each function returns the value (brought into its usual form) or raises `Refused` with a reason and a remedy.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from flexi.catalog import windows
from flexi.catalog.consumers import CHAT_CONSUMER, HEALTH_CONSUMER


def refused(reason: str, remedy: str) -> PydanticCustomError:
    """A validation error that carries its remedy."""
    return PydanticCustomError("refused", "{reason}; {remedy}", {"reason": reason, "remedy": remedy})


_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def host_name(value: str) -> str:
    """One label of RFC 1123, lower case (`server-a`)."""
    if not _LABEL.fullmatch(value):
        raise refused(
            "is no host name (RFC 1123: small letters, digits and inner hyphens, at most 63)",
            "write e.g. 'server-a'",
        )
    return value


def public_name(value: str) -> str:
    """A host name with domain, or an address, as people type it into a browser."""
    if is_address(value):
        return value
    labels = value.split(".")
    if len(value) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise refused("is no host name", "write e.g. 'flexi.example.edu'")
    return value


def gateway_name(value: str) -> str:
    """As `public_name`; it stands in URLs, where IPv6 addresses need brackets that nothing here writes."""
    if ":" in value and is_address(value):
        raise refused("is an IPv6 address, which flexi does not support yet", "write e.g. 'flexi.example.edu'")
    return public_name(value)


def group_name(value: str) -> str:
    """A GPU group: it names a systemd instance, an HAProxy server and directories."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", value, re.ASCII):
        raise refused(
            "is no group name (small letters, digits and inner hyphens, at most 32)",
            "write e.g. 'a' or 'teaching-1'",
        )
    return value


def is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def address(value: str) -> str:
    """An IPv4 address that one host can have; the firewall needs addresses and not names."""
    if not is_address(value):
        raise refused("is no IP address", "write e.g. '192.0.2.11' (names change under a firewall, addresses do not)")
    parsed = ipaddress.ip_address(value)
    if parsed.is_unspecified or parsed.is_multicast or parsed.is_loopback:
        raise refused("is no address that other hosts can reach", "write the host's own address")
    if parsed.version == 6:
        raise refused("is an IPv6 address, which flexi does not support yet", "write the host's IPv4 address")
    return str(parsed)


def network(value: str) -> str:
    """An address or a network in CIDR notation."""
    try:
        parsed = ipaddress.ip_network(value, strict=True)
    except ValueError as error:
        loose = _loose_network(value)
        if loose:
            raise refused("has bits set behind the prefix", f"did you mean '{loose}'?") from error
        raise refused("is no address or network", "write e.g. '198.51.100.0/24'") from error
    return str(parsed) if "/" in value else str(parsed.network_address)


def _loose_network(value: str) -> str | None:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        return None


def url(value: str) -> str:
    """An http(s) URL without a trailing slash, query or credentials; safe to stand in a shell's quotes."""
    try:
        parts = urlsplit(value)
        port_fits = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        parts, port_fits = urlsplit(""), False
    fits = re.fullmatch(r"[A-Za-z0-9:/._~%\[\]-]+", value, re.ASCII)
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or not fits:
        raise refused("is no http or https address", "write e.g. 'https://mirror.example.edu/ollama'")
    return value.rstrip("/")


def https_url(value: str) -> str:
    """As `url`, and nobody on the way can read or change what is asked there."""
    if not value.startswith("https://"):
        raise refused("is no https address", "write e.g. 'https://acme.example.edu/directory'")
    return url(value)


def url_or_path(value: str) -> str:
    """A URL as above, or a path on the admin's machine: `file:…`, or one that starts with `/`, `./`, `../` or `~`."""
    if value.startswith("file:"):
        value = re.sub(r"^file:(//(?=/))?", "", value)
        if value.startswith("//"):
            raise refused("names another machine's file", "write file:///path, or a path")
    elif not value.startswith(("/", "./", "../", "~")):
        return url(value)
    return plain_path(value).rstrip("/") or "/"


def proxy(value: str) -> str:
    """A proxy as `url` takes it: scheme, host and port. Whoever may read the hosts' settings reads it."""
    if "@" in value:
        raise refused(
            "holds a user name or a password, which stands in files and settings that everyone on a host can read",
            "let the proxy know the hosts by their addresses, or run one without a password in the house",
        )
    if value.count("/") > 2:
        raise refused("has a path", "write scheme, host and port only, e.g. 'http://proxy.example.edu:3128'")
    try:
        return url(value)
    except PydanticCustomError:
        raise refused("is no http or https address", "write e.g. 'http://proxy.example.edu:3128'") from None


def without_proxy(value: str) -> str:
    """What is reached without the proxy: a host, a domain with all that is in it, an address or a network."""
    try:
        return network(value) if re.match(r"[0-9a-fA-F.:]+/|[0-9.]+$", value) else public_name(value)
    except PydanticCustomError:
        raise refused(
            "is no host, domain or network", "write e.g. 'example.edu' (with all that is in it) or '192.0.2.0/24'"
        ) from None


def apt_uri(value: str) -> str:
    """As `url`, or a directory of the hosts (`file:/srv/mirror`)."""
    if re.fullmatch(r"file:/[A-Za-z0-9/._~+-]*", value, re.ASCII):
        return value.rstrip("/")
    return url(value)


def apt_word(value: str) -> str:
    """A suite or a component (`jammy-security`, `restricted`); a suite may have slashes (`stable/updates`)."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+~-]*(/[A-Za-z0-9._+~-]+)*", value, re.ASCII):
        raise refused("is no suite or component", "write it as /etc/apt/sources.list has it, e.g. 'jammy-security'")
    return value


def label(value: str) -> str:
    """A short name that stands in a file's name."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", value, re.ASCII):
        raise refused(
            "is no short name (small letters, digits and inner hyphens, at most 32)", "write e.g. 'jammy-snapshot'"
        )
    return value


_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"
_MODEL = re.compile(rf"(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::(?P<tag>{_PART}))?", re.ASCII)


def model_name(value: str) -> str:
    """A model as Ollama 0.24.0 parses it (types/model/name.go), with its tag: `llama3` becomes `llama3:latest`."""
    found = _MODEL.fullmatch(value)
    if not found:
        raise refused("is no model name of Ollama", "write e.g. 'llama3:8b' or 'namespace/model:tag'")
    return value if found["tag"] else f"{value}:latest"


def gpu_uuid(value: str) -> str:
    if not re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value, re.ASCII):
        raise refused("is no UUID of a GPU", "write it as `nvidia-smi -L` shows it: GPU- and 32 hexadecimal digits")
    return value


def sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value, re.ASCII):
        raise refused("is no SHA-256", "write its 64 hexadecimal digits in small letters")
    return value


def fingerprint(value: str) -> str:
    compact = value.replace(" ", "").upper()
    if not re.fullmatch(r"[0-9A-F]{40}", compact, re.ASCII):
        raise refused("is no OpenPGP fingerprint", "write its 40 hexadecimal digits")
    return compact


def version(value: str) -> str:
    if not re.fullmatch(r"(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,4})", value, re.ASCII):
        raise refused("is no version of Ollama", "write three numbers, e.g. '0.24.0'")
    return value


def chat_version(value: str) -> str:
    """A release of Open WebUI."""
    try:
        return version(value)
    except PydanticCustomError:
        raise refused("is no version of Open WebUI", "write three numbers, e.g. '0.12.4'") from None


def age_recipient(value: str) -> str:
    """A public key of age (`age1…`, Bech32; C2SP age, "Native X25519 recipients")."""
    if not re.fullmatch(r"age1[02-9ac-hj-np-z]{58}", value, re.ASCII):
        raise refused("is no public key of age", "write the line `age1…` that age-keygen shows")
    return value


def toolkit(value: str) -> str:
    if not re.fullmatch(r"\d{2}\.\d{1,2}", value, re.ASCII):
        raise refused("is no version of the CUDA toolkit", 'write major and minor in quotes, e.g. "12.4"')
    return value


def unix_user(value: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", value, re.ASCII):
        raise refused("is no user name", "write e.g. 'admin'")
    return value


def plain_path(value: str) -> str:
    if not value or any(not c.isprintable() for c in value):
        raise refused("is no path", "write a path, absolute or from the site file's directory")
    return value


def one_line(value: str) -> str:
    if not value.strip() or any(not c.isprintable() for c in value):
        raise refused("is no line of text", "write one line")
    return value


def purpose(value: str) -> str:
    """A few words for a rule's comment; they stand in quotes in the firewall's file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._/+-]{0,59}", value, re.ASCII):
        raise refused("is no purpose (letters, digits, blanks and . _ / + -, at most 60)", "write e.g. 'Checkmk'")
    return value


def site_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,62})", value, re.ASCII):
        raise refused("is no name for a site (small letters, digits, '.', '_' and '-')", "write e.g. 'hagen'")
    return value


def mail_address(value: str) -> str:
    """An address that may stand in a settings file: one `@`, no quotes, no blanks."""
    if not re.fullmatch(r"[A-Za-z0-9._+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", value, re.ASCII):
        raise refused("is no mail address", "write e.g. 'flexi@example.edu'")
    return value


_OURS = {HEALTH_CONSUMER: "flexi's own health checks", CHAT_CONSUMER: "the chat"}
CONSUMER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


def consumer_name(value: str) -> str:
    if not CONSUMER_NAME.fullmatch(value):
        raise refused("is no name for a consumer (small letters, digits, '.', '_' and '-')", "write e.g. 'moodle-2026'")
    if value in _OURS:
        raise refused(f"is the name of {_OURS[value]}", "choose another name")
    return value


def instant(value: str) -> str:
    """A moment with its zone, as ISO 8601 writes it."""
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise refused("is no moment with its zone (ISO 8601)", "write e.g. '2027-03-31T22:00:00+00:00'")
    return value


def class_name(value: str) -> str:
    """A class of consumers; it stands in HAProxy's configuration and tables."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", value, re.ASCII):
        raise refused(
            "is no name for a class (small letters, digits and inner hyphens, at most 32)", "write e.g. 'staff'"
        )
    if value in _OURS:
        raise refused(f"is the class of {_OURS[value]}", "choose another name")
    return value


def origin(value: str) -> str:
    """A web origin as browsers send it (RFC 6454, 6.2): scheme, host, and port where it is not the scheme's own."""
    try:
        parts = urlsplit(value)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise refused("is no origin", _ORIGIN) from None
    bare = parts.scheme in ("http", "https") and value == f"{parts.scheme}://{parts.netloc}" and "@" not in value
    if not bare or not host:
        raise refused("is no origin", _ORIGIN)
    public_name(host)
    own = {"http": 80, "https": 443}[parts.scheme]
    usual = f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, own) else "")
    if value != usual:
        raise refused("is not as browsers write it", f"did you mean '{usual}'?")
    return value


_ORIGIN = "write scheme and host, and no path, e.g. 'https://moodle.example.edu'"


def window(value: str) -> str:
    """A weekly maintenance window, as `flexi.catalog.windows` reads it."""
    try:
        return windows.parse(value).text
    except ValueError as error:
        raise refused("is no weekly window", "write e.g. 'Sun 02:00-05:00' or 'Mon-Fri 22:30-04:00'") from error


def absolute_path(value: str) -> str:
    """A path on another machine."""
    if not value.startswith("/") or value.endswith("/") or not re.fullmatch(r"[A-Za-z0-9/._+@-]+", value, re.ASCII):
        raise refused("is no path from the root", "write e.g. '/var/www/moodle/config.php'")
    return value


def program(value: str) -> str:
    """A command's name, or its path."""
    if not re.fullmatch(r"[A-Za-z0-9/._+-]+", value, re.ASCII) or value.startswith("-"):
        raise refused("is no name of a program", "write e.g. 'php' or '/usr/bin/php8.2'")
    return value


def prompt(value: str) -> str:
    """Text of several lines that a model is told."""
    if not value.strip() or len(value) > 8000 or any(not (c.isprintable() or c == "\n") for c in value):
        raise refused("is no text that a model could be told", "write at most 8000 printable characters")
    return value.strip()
