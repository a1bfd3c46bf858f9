"""The university's mark on the page where people sign in, above the form and beside Open WebUI's own, which stays.

Its licence forbids to take away or cover its own marks (LICENSE of 0.12.4, clause 4). `custom.css` is the style sheet
that its pages load for such additions (frontend/index.html); it makes the folder of these files anew at each start.
"""

from __future__ import annotations

import shutil
from pathlib import Path

NAME = "site-logo.png"
_CSS = f"""
#auth-login-card::before {{
  content: ""; display: block; height: 5rem; margin-bottom: 1.5rem;
  background: url("/static/{NAME}") center / contain no-repeat;
}}
"""


def show_logo(logo: Path, static: Path) -> None:
    """Put `logo` (PNG) into Open WebUI's folder `static`; nothing where there is none."""
    if not logo.is_file():
        return
    shutil.copyfile(logo, static / NAME)
    with (static / "custom.css").open("a", encoding="utf-8") as sheet:
        sheet.write(_CSS)
