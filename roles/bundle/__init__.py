"""The bundle for a host without internet, brought from a prepared folder; apt then asks that and nothing else."""

from pyinfra.api import deploy
from pyinfra.operations import files

from flexi.operations import bundle
from flexi.plan.model.site import HostPlan

SOURCES = "/etc/flexi/apt-bundle.sources"


@deploy("Bundle")
def install(host_plan: HostPlan) -> None:
    """Bring packages and point apt at them, before the first one is installed."""
    wanted = host_plan.bundle
    if wanted is None:
        files.file(name="Let apt use the host's own repositories", path=SOURCES, present=False)
        return
    bundle.receive(name="Bring the bundle's packages", host_plan=host_plan, part="apt")
    files.directory(name="Make the directory of apt's lists for the bundle", path=wanted.apt_lists, mode="0755")
    files.template(
        name="Make the bundle a repository",
        src="templates/bundle/apt.sources.j2",
        dest=SOURCES,
        mode="0644",
        uri=wanted.apt_uri,
        suite=wanted.apt_suite,
    )
    files.template(
        name="Let flexi's apt know the bundle and nothing else",
        src="templates/bundle/apt.conf.j2",
        dest=wanted.apt_config,
        mode="0644",
        sources=SOURCES,
        lists=wanted.apt_lists,
    )


@deploy("Bundle")
def bring_models(host_plan: HostPlan) -> None:
    """Bring models once their owner is there: nobody else may link them into groups' stores (`man proc_sys_fs`)."""
    if host_plan.bundle:
        bundle.receive(name="Bring the bundle's models", host_plan=host_plan, part="models", owner="ollama")
