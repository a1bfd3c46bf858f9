"""Another release of Open WebUI, and back again: what was said stays."""

from __future__ import annotations

from chat_person import Member, member
from lab_site import Site, changed, flexi


def version(person: Member) -> str:
    return str(person.get("/api/version")["version"])


def test_a_release_forth_and_back_keeps_what_was_said(site: Site) -> None:
    older = changed(site, "chat:\n  host: gateway\n", "chat:\n  host: gateway\n  version: 0.12.3\n", "older")
    person = member(site)
    wanted = version(person)
    assert wanted != "0.12.3"
    chats = [person.write("said before the change", "phi3:3.8b")]
    done = flexi("deploy", str(older), "--no-wait", timeout_s=900)
    assert done.status == 0, done.text[-3000:]
    person.sign_in()
    assert version(person) == "0.12.3"
    chats.append(person.write("said meanwhile", "phi3:3.8b"))
    done = flexi("rollback", str(older), "--chat", timeout_s=600)
    assert done.status == 0, done.text[-3000:]
    assert "chat.version 0.12.3" in done.text
    person.sign_in()
    assert version(person) == wanted
    assert set(person.written()) >= {"said before the change", "said meanwhile"}
    # A copy would hold what people delete later.
    left = site.ssh("gateway", "sudo find /var/lib/flexi-chat -name 'before-*'")
    assert (left.status, left.stdout) == (0, "")
    for chat in chats:
        assert person.request("DELETE", f"/api/v1/chats/{chat}").status_code == 200
    assert site.failures() == []
