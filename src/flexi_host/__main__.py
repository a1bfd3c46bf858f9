"""The programs in the package.

On GPU hosts `run`, `gpus` and `share`; on the gateway `catalogue`, `guard`, `ledger`, `keys` and `now`.

Exit status: 0 fine, 1 it cannot run (a port is taken, a GPU is missing), 2 the configuration or the call is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flexi_host.common.broken import Broken
from flexi_host.common.fields import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        refused: str | None = _PROGRAMS[asked.program](asked)
    except ConfigError as error:
        return _fail(str(error), 2)
    except (Broken, OSError) as error:
        return _fail(str(error), 1)
    return _fail(refused, 1) if refused else 0


# Each program loads what it needs and no more: nothing is compiled beforehand in an archive, and the guard's workers
# shall be there at once.


def _run(asked: argparse.Namespace) -> None:
    from flexi_host.agent import daemon
    from flexi_host.agent.config import AgentConfig

    daemon.run(AgentConfig.load(asked.config))


def _share(asked: argparse.Namespace) -> None:
    from flexi_host.agent import share
    from flexi_host.agent.config import AgentConfig

    share.serve(AgentConfig.load(asked.config), sys.stdin.buffer, sys.stdout.buffer)


def _catalogue(asked: argparse.Namespace) -> None:
    from flexi_host.catalogue import server
    from flexi_host.catalogue.config import CatalogueConfig

    server.run(CatalogueConfig.load(asked.config))


def _guard(asked: argparse.Namespace) -> None:
    from flexi_host.guard import master

    master.run(asked.config, asked.socket, asked.status)


def _guard_worker(asked: argparse.Namespace) -> None:
    from flexi_host.guard import worker as guard_worker

    guard_worker.run(asked.config, asked.listen_fd, asked.pipe_fd)


def _guard_reload(asked: argparse.Namespace) -> None:
    from flexi_host.guard import master

    master.reload(asked.config, asked.pid, asked.status)


def _keys(asked: argparse.Namespace) -> str | None:
    from flexi_host.haproxy import map_file

    if asked.check:
        return None if map_file.known(asked.map, asked.socket) else f"HAProxy knows others than {asked.map}"
    map_file.follow(asked.map, asked.socket)
    return None


def _ledger(asked: argparse.Namespace) -> None:
    from flexi_host.ledger import server
    from flexi_host.ledger.config import LedgerConfig

    server.run(LedgerConfig.load(asked.config))


def _now(asked: argparse.Namespace) -> None:
    from flexi_host.haproxy import now
    from flexi_host.ledger.config import LedgerConfig

    now.tell(LedgerConfig.load(asked.config).port, sys.stdout)


def _haproxy_reload(asked: argparse.Namespace) -> None:
    from flexi_host.haproxy import reload

    reload.reload(asked.socket)


def _gpus(asked: argparse.Namespace) -> str | None:
    from flexi_host.agent import gate

    return gate.refusal(asked.env_file)


_PROGRAMS: Mapping[str, Callable[[argparse.Namespace], str | None]] = {
    "run": _run,
    "share": _share,
    "catalogue": _catalogue,
    "guard": _guard,
    "guard-worker": _guard_worker,
    "guard-reload": _guard_reload,
    "keys": _keys,
    "ledger": _ledger,
    "now": _now,
    "haproxy-reload": _haproxy_reload,
    "gpus": _gpus,
}
"""What a program returns is why it refuses; None where it is done."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flexi_host", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True)
    run = programs.add_parser("run", help="keep the instances of this host right")
    run.add_argument("--config", type=Path, default=Path("/etc/flexi/agent.json"))
    shares = programs.add_parser("share", help="give a group a model that lies on this host: one request on stdin")
    shares.add_argument("--config", type=Path, default=Path("/etc/flexi/agent.json"))
    lists = programs.add_parser("catalogue", help="serve the lists of all instances as one")
    lists.add_argument("--config", type=Path, default=Path("/etc/flexi/catalogue.json"))
    _add_guard(programs)
    keys = programs.add_parser("keys", help="make the running HAProxy know a table's file")
    keys.add_argument("--map", type=Path, default=Path("/etc/haproxy/flexi/keys.map"))
    keys.add_argument("--check", action="store_true", help="only say whether it does")
    keys.add_argument("--socket", type=Path, default=Path("/run/haproxy/admin.sock"))
    ledger = programs.add_parser("ledger", help="keep the access log, the usage and the figures of the gateway")
    moment = programs.add_parser("now", help="say what the gateway is doing at this moment, as JSON")
    for program in (ledger, moment):
        program.add_argument("--config", type=Path, default=Path("/etc/flexi/ledger.json"))
    anew = programs.add_parser("haproxy-reload", help="reload HAProxy, and fail where it did not come about")
    anew.add_argument("--socket", type=Path, default=Path("/run/haproxy/admin.sock"))
    gpus = programs.add_parser("gpus", help="fail unless all GPUs of an instance are visible")
    gpus.add_argument("--env-file", type=Path, required=True)
    return parser


def _add_guard(programs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = programs.add_parser("guard", help="judge every request at the gateway and pass it on")
    serve.add_argument("--socket", type=Path, action="append", default=[], help="where systemd gives none")
    worker = programs.add_parser("guard-worker", help="one of its processes")
    worker.add_argument("--listen-fd", type=int, required=True)
    worker.add_argument("--pipe-fd", type=int, required=True)
    again = programs.add_parser("guard-reload", help="have the guard read its configuration, and wait until it has")
    again.add_argument("--pid", type=int, required=True)
    for program in (serve, again):
        program.add_argument("--status", type=Path, default=Path("/run/flexi-guard-state/status.json"))
    for program in (serve, worker, again):
        program.add_argument("--config", type=Path, default=Path("/etc/flexi/guard.json"))


def _fail(message: str, status: int) -> int:
    print(f"flexi_host: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
