"""The users that services of ours run as."""

from pyinfra.operations import server

NO_HOME = "/nonexistent"


def service_user(user: str, whose: str, home: str = NO_HOME) -> None:
    """Create a system user with a group of its own name, who cannot log in; `home` is not made.

    `whose` is for the operation's name: `the guard's`.
    """
    server.group(name=f"Make the group {user}", group=user, system=True)
    server.user(
        name=f"Make {whose} user",
        user=user,
        group=user,
        home=home,
        shell="/usr/sbin/nologin",
        system=True,
        ensure_home=False,
    )
