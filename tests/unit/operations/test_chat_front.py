"""Apache in front of the chat: its settings are looked through before the one that runs is restarted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from flexi.operations.chat_front import settings_checked
from flexi.paths import ROOT

UNIT = ROOT / "templates/chat/flexi-chat-front.service"
# Reads what Apache reads, from the same places, and complains in its words (core.c, ap_build_config; apr_fnmatch).
APACHE = """\
#!/bin/sh
[ "$1 $2" = "-t -f" ] && [ -r "$3" ] || exit 9
for name in FLEXI_PROOF APACHE_LOCK_DIR APACHE_LOG_DIR APACHE_PID_FILE APACHE_RUN_USER APACHE_RUN_GROUP; do
  [ -n "$(printenv $name)" ] || { echo "AH00111: Config variable \\${$name} is not defined"; exit 1; }
done
[ -d "$APACHE_RUN_DIR" ] || { echo "DefaultRuntimeDir must be a valid directory"; exit 1; }
grep -q Nonsense "$CREDENTIALS_DIRECTORY/admin.conf" || exit 0
echo "AH00526: Syntax error on line 2 of $CREDENTIALS_DIRECTORY/admin.conf:"
echo "Invalid command 'Nonsense'"
exit 1
"""


@pytest.fixture
def apache(tmp_path: Path) -> Path:
    program = tmp_path / "apache2"
    program.write_text(APACHE)
    program.chmod(0o755)
    (tmp_path / "front.conf").write_text("Include ${CREDENTIALS_DIRECTORY}/admin.conf\n")
    return program


def restart(apache: Path, directives: str) -> subprocess.CompletedProcess[str]:
    here = apache.parent
    (here / "admin.conf").write_text(directives)
    command = settings_checked(str(here / "front.conf"), str(here / "admin.conf"), str(apache))
    script = f"set -e\n{command}\necho restarted"
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(here)}
    return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_right_settings_are_taken(apache: Path) -> None:
    done = restart(apache, "<Location />\n  Require all granted\n</Location>\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "restarted\n", "")


def test_wrong_directives_restart_nothing_and_are_named(apache: Path) -> None:
    done = restart(apache, "# of mine\nNonsense on\n")
    assert (done.returncode, done.stdout) == (1, "")
    (said,) = done.stderr.splitlines()
    assert (
        f"Syntax error on line 2 of {apache.parent}/admin.conf: Invalid command 'Nonsense'; mend the file that" in said
    )
    assert "chat.sign_in.trusted_headers.apache" in said
    assert sorted(path.name for path in apache.parent.iterdir()) == ["admin.conf", "apache2", "front.conf"]


def test_apache_is_asked_with_what_its_unit_gives_it() -> None:
    """Each variable of the unit's, and the credential under the unit's name."""
    unit = UNIT.read_text(encoding="utf-8")
    command = settings_checked("/etc/flexi/chat-front.conf", "/etc/flexi/chat-front-admin.conf")
    for variable in re.findall(r"\b(APACHE_[A-Z_]+)=", unit):
        assert f"{variable}=" in command
    credential, source = re.findall(r"^LoadCredential=([^:]+):(.*)$", unit, re.MULTILINE)[0]
    assert f'ln -s {source} "$draft/{credential}"' in command
    assert re.findall(r"^ExecStart=/usr/sbin/apache2 -f (\S+) ", unit, re.MULTILINE)[0] in command
