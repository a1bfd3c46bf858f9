"""Apache in front of the chat: a check of its settings before it is restarted with them."""

from __future__ import annotations


def settings_checked(config: str, admin: str, apache: str = "/usr/sbin/apache2") -> str:
    """Return shell commands that fail, with Apache's own words, where it would not start with these settings.

    They touch nothing, so that an Apache that runs goes on. Not in the unit: see flexi-chat-front.service.
    """
    return f"""draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
ln -s {admin} "$draft/admin.conf"
if ! said=$(env CREDENTIALS_DIRECTORY="$draft" FLEXI_PROOF=checked APACHE_RUN_DIR="$draft" APACHE_LOCK_DIR="$draft" \
    APACHE_LOG_DIR="$draft" APACHE_PID_FILE="$draft/pid" APACHE_RUN_USER=www-data APACHE_RUN_GROUP=www-data \
    {apache} -t -f {config} 2>&1); then
  said=$(printf '%s' "$said" | sed "s|$draft/admin.conf|{admin}|g" | tr '\\n' ' ')
  echo "Apache does not start with these settings, and one that runs was left alone: ${{said}}; mend the file that" \
    "chat.sign_in.trusted_headers.apache names, and deploy again" >&2
  exit 1
fi"""
