"""Who leaves the last group in the directory leaves it in the chat too.

At sign-in Open WebUI 0.12.4 makes a user's groups those that the directory names, but where it names none the old ones
stay (routers/auths.py: `and user_groups`, `if group_names`; utils/oauth.py: `if user_oauth_groups and`).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import open_webui.routers.auths as auths
from open_webui import env
from open_webui.models.config import Config
from open_webui.models.groups import Groups
from open_webui.utils import oauth

_synced: ContextVar[bool] = ContextVar("synced", default=False)
"""Whether this request's sign-in has made its user's groups those of the directory."""


def follow_the_directory() -> None:
    """AttributeError where this release does it in another way."""
    sync = Groups.sync_groups_by_group_names
    respond = auths.create_signin_response
    update = oauth.OAuthManager.update_user_groups

    async def synced(*arguments: Any, **more: Any) -> Any:
        done = await sync(*arguments, **more)
        _synced.set(True)
        return done

    async def responded(request: Any, user: Any, *arguments: Any, source: str = "password", **more: Any) -> Any:
        if not _synced.get() and await _are_given(source):
            await sync(user.id, [])
        return await respond(request, user, *arguments, source=source, **more)

    async def updated(
        self: Any, request: Any, user: Any, user_data: Any, *arguments: Any, token_claims: Any = None, **more: Any
    ) -> None:
        await update(self, request, user, user_data, *arguments, token_claims=token_claims, **more)
        claim = (await oauth.get_oauth_runtime_config()).OAUTH_GROUPS_CLAIM
        if not any(oauth._get_claim(claims, claim) for claims in (user_data, token_claims) if claims):
            await sync(user.id, [])

    Groups.sync_groups_by_group_names = synced
    auths.create_signin_response = responded
    oauth.OAuthManager.update_user_groups = updated


async def _are_given(source: str) -> bool:
    """Whether a sign-in of this kind says which groups its user has."""
    if source == "ldap":
        return bool(await Config.get("ldap.group.enable_management"))
    return source == "trusted_header" and bool(env.WEBUI_AUTH_TRUSTED_GROUPS_HEADER)
