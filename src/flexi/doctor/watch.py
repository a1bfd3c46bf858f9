"""`flexi status`: a look at the service with the doctor's judgement, taken once or again and again."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rich.console import Console, RenderableType

from flexi.plan.model.site import Plan
from flexi.status import instances
from flexi.status.instances import Look

from . import Examination, examine, examine_service, show

EXAMINE_EVERY_S = 60.0
"""Between two examinations of the hosts while `status` refreshes: each one reads packages, disks and kernels."""


class StatusWatch:
    """Looks at the site. With `quick` the hosts themselves are not examined."""

    def __init__(self, site: str, plan: Plan, quick: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._site, self._plan, self._quick, self._clock = site, plan, quick, clock
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._latest: Examination | None = None
        self._running: Future[Examination] | None = None
        self._due_at = 0.0

    def take(self) -> tuple[Look, Examination]:
        """Look at the service and, unless quick, examine all hosts meanwhile."""
        if self._quick:
            seen = instances.look(self._plan)
            return seen, examine_service(self._site, self._plan, seen)
        look = self._pool.submit(instances.look, self._plan)
        examination = self._examine(lambda _: look.result())
        return look.result(), examination

    def read(self) -> tuple[Look, RenderableType, bool]:
        """Look at the service now, and say what is wrong by the last examination that has ended."""
        seen = instances.look(self._plan)
        if not self._quick and self._running is None and self._clock() >= self._due_at:
            self._running = self._pool.submit(self._examine, instances.look)
        if self._running is not None and self._running.done():
            self._latest, self._running = self._running.result(), None
            self._due_at = self._clock() + EXAMINE_EVERY_S
        now = examine_service(self._site, self._plan, seen)
        examination = self._with_hosts(now)
        return seen, show.verdict(examination, self._site), not examination.errors

    def _with_hosts(self, service: Examination) -> Examination:
        """Add what the last examination found on the hosts themselves to what is wrong with the service now."""
        if self._latest is None:
            return service
        ids = {kind.id for kind in show.SERVICE_KINDS}
        hosts = tuple(finding for finding in self._latest.findings if finding.kind.id not in ids)
        return Examination(service.site, service.hosts, hosts + service.findings)

    def _examine(self, look: Callable[[Plan], Look]) -> Examination:
        return examine(self._site, self._plan, (), Console(file=io.StringIO()), look=look)
