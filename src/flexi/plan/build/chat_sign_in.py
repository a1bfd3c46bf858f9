"""Who may sign in to the chat, in the words of Open WebUI and of the gate in front of it (`flexi_chat.app`).

Names and meanings: open_webui/env.py, config.py, routers/auths.py and utils/oauth.py of 0.12.4.
"""

from __future__ import annotations

from flexi.plan.model.chat import ChatPlan, LdapPlan, OidcPlan, SignInPlan

AGREEMENT = "/etc/flexi/agreement"
"""On the chat's host: `version`, `de.md` and `en.md` of the agreement."""
LDAP_CA = "/etc/flexi/chat-ldap-ca.pem"
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
MAIL_HEADER, NAME_HEADER, GROUPS_HEADER = "X-Flexi-Mail", "X-Flexi-Name", "X-Flexi-Groups"
OURS = (MAIL_HEADER, NAME_HEADER, GROUPS_HEADER, "X-Flexi-Proof")
"""Headers that are believed, and that no client may send."""

Settings = tuple[tuple[str, str], ...]


def sign_in_settings(chat: ChatPlan) -> Settings:
    """Name and value of each setting that is no secret."""
    sign_in = chat.sign_in
    by_header = sign_in.trusted_headers is not None
    return (
        ("FLEXI_AGREEMENT", AGREEMENT if chat.agreement else "none"),
        ("FLEXI_LANGUAGE", chat.language),
        ("FLEXI_ADMINS", ",".join(chat.admins)),
        ("FLEXI_PASSWORDS", _word(sign_in.local or by_header)),
        ("ENABLE_LOGIN_FORM", _word(sign_in.local)),
        ("ENABLE_PASSWORD_CHANGE_FORM", _word(sign_in.local)),
        # Without it a directory's passwords are refused as well.
        ("ENABLE_PASSWORD_AUTH", _word(sign_in.local or by_header or sign_in.ldap is not None)),
        *_ldap(sign_in.ldap),
        *_oidc(sign_in.oidc, chat.url),
        *_headers(sign_in),
    )


def _ldap(ldap: LdapPlan | None) -> Settings:
    if ldap is None:
        return (("ENABLE_LDAP", "false"),)
    groups = (
        ("ENABLE_LDAP_GROUP_MANAGEMENT", _word(ldap.groups is not None)),
        # Groups that no course names are nobody's business here.
        ("ENABLE_LDAP_GROUP_CREATION", "false"),
        *((("LDAP_ATTRIBUTE_FOR_GROUPS", ldap.groups),) if ldap.groups else ()),
    )
    return (
        ("ENABLE_LDAP", "true"),
        ("LDAP_SERVER_LABEL", ldap.host),
        ("LDAP_SERVER_HOST", ldap.host),
        ("LDAP_SERVER_PORT", str(ldap.port)),
        ("LDAP_USE_TLS", _word(ldap.tls)),
        ("LDAP_VALIDATE_CERT", "true"),
        ("LDAP_CA_CERT_FILE", LDAP_CA if ldap.ca else SYSTEM_CA),
        ("LDAP_APP_DN", ldap.bind_dn),
        ("LDAP_SEARCH_BASE", ldap.base),
        ("LDAP_SEARCH_FILTERS", ldap.filter or ""),
        ("LDAP_ATTRIBUTE_FOR_USERNAME", ldap.user),
        ("LDAP_ATTRIBUTE_FOR_MAIL", ldap.mail),
        *groups,
    )


def _oidc(oidc: OidcPlan | None, url: str) -> Settings:
    if oidc is None:
        return (("ENABLE_OAUTH", "false"),)
    return (
        ("ENABLE_OAUTH", "true"),
        ("ENABLE_OAUTH_SIGNUP", "true"),
        ("OPENID_PROVIDER_URL", oidc.discovery),
        ("OPENID_REDIRECT_URI", f"{url}/oauth/oidc/callback"),
        ("OAUTH_CLIENT_ID", oidc.client_id),
        ("OAUTH_PROVIDER_NAME", oidc.name),
        ("OAUTH_SCOPES", oidc.scopes),
        ("OAUTH_CODE_CHALLENGE_METHOD", "S256"),
        # Who has an account by mail address already is not taken for that person: a provider may let people choose it.
        ("OAUTH_MERGE_ACCOUNTS_BY_EMAIL", "false"),
        # Pictures would be fetched from wherever the provider says.
        ("OAUTH_PICTURE_CLAIM", ""),
        ("ENABLE_OAUTH_ID_TOKEN_COOKIE", "false"),
        ("ENABLE_OAUTH_GROUP_MANAGEMENT", _word(oidc.groups is not None)),
        ("ENABLE_OAUTH_GROUP_CREATION", "false"),
        *((("OAUTH_GROUPS_CLAIM", oidc.groups),) if oidc.groups else ()),
    )


def _headers(sign_in: SignInPlan) -> Settings:
    if sign_in.trusted_headers is None:
        return ()
    groups = (("WEBUI_AUTH_TRUSTED_GROUPS_HEADER", GROUPS_HEADER),) if sign_in.trusted_headers.groups else ()
    return (
        ("WEBUI_AUTH_TRUSTED_EMAIL_HEADER", MAIL_HEADER),
        ("WEBUI_AUTH_TRUSTED_NAME_HEADER", NAME_HEADER),
        *groups,
    )


def _word(value: bool) -> str:
    return "true" if value else "false"
