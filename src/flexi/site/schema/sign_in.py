"""`chat.sign_in:` in a site file: where the chat's users come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from flexi.configfile import names
from flexi.configfile.section import FilePath, Line, Port, Secret, Section, Url


class Ldap(Section):
    """Sign-in with a directory's user names and passwords."""

    host: Annotated[str, AfterValidator(names.public_name)] = Field(
        description="The directory's server.", examples=["ldap.example.edu"]
    )
    port: Port | None = Field(default=None, description="Its port; default: 636 with `tls`, else 389.", examples=[636])
    tls: bool = Field(default=True, description="LDAPS; without it passwords go over the network in the clear.")
    ca: FilePath | None = Field(
        default=None,
        description="PEM file of the authority of the server's certificate; default: those that the host trusts. "
        "Relative paths start at the site file.",
        examples=["ldap-ca.pem"],
    )
    bind_dn: Line = Field(
        description="Who searches the directory for users.", examples=["cn=flexi,ou=services,dc=example,dc=edu"]
    )
    bind_password: Secret = Field(description="That one's password.")
    base: Line = Field(description="Where users are searched.", examples=["ou=people,dc=example,dc=edu"])
    filter: Line | None = Field(
        default=None, description="Further condition on users.", examples=["(eduPersonAffiliation=member)"]
    )
    user: Line = Field(default="uid", description="Attribute that holds the user name.", examples=["uid"])
    mail: Line = Field(default="mail", description="Attribute that holds the mail address.", examples=["mail"])
    groups: Line | None = Field(
        default=None, description="Attribute that names a user's groups.", examples=["memberOf"]
    )


class Oidc(Section):
    """Sign-in at a provider that speaks OpenID Connect."""

    discovery: Url = Field(
        description="The provider's discovery document.",
        examples=["https://login.example.edu/.well-known/openid-configuration"],
    )
    client_id: Line = Field(description="Name under which the provider knows the chat.", examples=["flexi-chat"])
    client_secret: Secret = Field(description="The secret that goes with it.")
    name: Line = Field(default="SSO", description="What the sign-in button says.", examples=["Example University"])
    scopes: Line = Field(
        default="openid email profile", description="What is asked of the provider.", examples=["openid email profile"]
    )
    groups: Line | None = Field(default=None, description="Claim that names a user's groups.", examples=["groups"])


class TrustedHeaders(Section):
    """Sign-in by an Apache on the chat's host, which an admin sets up for Shibboleth or another module; it says in
    headers who comes."""

    apache: FilePath = Field(
        description="Apache's directives for who may come in; relative paths start at the site file.",
        examples=["shibboleth.conf"],
    )
    mail: Line = Field(default="mail", description="Variable that holds the mail address.", examples=["mail"])
    name: Line = Field(
        default="displayName", description="Variable that holds the person's name.", examples=["displayName"]
    )
    groups: Line | None = Field(
        default=None, description="Variable that names a person's groups.", examples=["isMemberOf"]
    )


class SignIn(Section):
    """Who may sign in. Nobody can register; the agreement comes before the first word."""

    local: bool = Field(
        default=True, description="Accounts with a password of their own, made by `flexi accounts add`."
    )
    ldap: Ldap | None = None
    oidc: Oidc | None = None
    trusted_headers: TrustedHeaders | None = None
