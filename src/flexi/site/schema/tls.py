"""`gateway.tls:` in a site file: where the gateway's certificate comes from, and what becomes of plain HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from flexi.configfile import names
from flexi.configfile.section import FilePath, Section

PlainHttp = Literal["redirect", "serve", "closed"]
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
"""Let's Encrypt's directory (letsencrypt.org/docs/acme-protocol-updates)."""


class Acme(Section):
    """A certificate from an authority that speaks ACME (RFC 8555), ordered and renewed by certbot on the gateway. The
    authority looks at `http://<gateway.name>/.well-known/acme-challenge/…`, so port 80 is open to everyone."""

    email: Annotated[str, AfterValidator(names.mail_address)] = Field(
        description="Whom the authority may write to.", examples=["flexi@example.edu"]
    )
    directory: Annotated[str, AfterValidator(names.https_url)] = Field(
        default=LETS_ENCRYPT,
        description="The authority's directory; for GÉANT TCS the one that HARICA's portal shows with the account.",
        examples=["https://acme.example.edu/directory"],
    )
    account: FilePath | None = Field(
        default=None,
        description='External account binding: a file `{"kid": "…", "hmac_key": "…"}` with what the authority gave; '
        "readable by you alone, and in no repository. Relative paths start at the site file.",
        examples=["mysite.acme.json"],
    )


class Tls(Section):
    """HTTPS at the gateway; left out, it speaks plain HTTP. The certificate is one of three: files, `acme` or
    `self_signed`."""

    certificate: FilePath | None = Field(
        default=None,
        description="PEM file: the certificate of `gateway.name` first, then those between it and the authority's "
        "root. Relative paths start at the site file.",
        examples=["flexi.example.edu.pem"],
    )
    key: FilePath | None = Field(
        default=None,
        description="PEM file with its private key, without a passphrase, readable by you alone and in no repository.",
        examples=["flexi.example.edu.key"],
    )
    acme: Acme | None = Field(default=None, description="A certificate that is ordered and renewed by itself.")
    self_signed: bool = Field(
        default=False,
        description="A certificate that the gateway makes for itself, and that no client trusts unasked.",
        examples=[True],
    )
    http: PlainHttp = Field(
        default="redirect",
        description="Port 80 beside HTTPS. `redirect`: leads to HTTPS, but for requests that show a key, which are "
        "refused: it went over the network in the clear. `serve`: the API as well, for the time of a change-over. "
        "`closed`: nothing.",
        examples=["closed"],
    )
    hsts: bool = Field(
        default=False,
        description="Tell browsers to come by HTTPS only, for two years (Strict-Transport-Security). There is no way "
        "back for who has heard it.",
        examples=[True],
    )
