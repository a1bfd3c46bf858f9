"""What a host without internet needs, brought from the prepared folder; apt then asks that and nothing else."""

from pyinfra.api import deploy
from pyinfra.operations import files

from flexi.operations.bundle import received
from flexi.plan.model.site import HostPlan

SOURCES = "/etc/flexi/apt-bundle.sources"


@deploy("Bundle")
def install(plan: HostPlan) -> None:
    """Packages, before the first one is installed."""
    bundle = plan.bundle
    if bundle is None:
        files.file(name="Let apt use the host's own repositories", path=SOURCES, present=False)
        return
    received(name="Bring the bundle's packages", plan=plan, part="apt")
    files.directory(name="Make the directory of apt's lists for the bundle", path=bundle.apt_lists, mode="0755")
    files.template(
        name="Make the bundle a repository",
        src="templates/bundle/apt.sources.j2",
        dest=SOURCES,
        mode="0644",
        uri=bundle.apt_uri,
        suite=bundle.apt_suite,
    )
    files.template(
        name="Let flexi's apt know the bundle and nothing else",
        src="templates/bundle/apt.conf.j2",
        dest=bundle.apt_config,
        mode="0644",
        sources=SOURCES,
        lists=bundle.apt_lists,
    )


@deploy("Bundle")
def bring_models(plan: HostPlan) -> None:
    """Models, once their owner is there: only an owner may link them into the groups' stores (`man proc_sys_fs`)."""
    if plan.bundle:
        received(name="Bring the bundle's models", plan=plan, part="models", owner="ollama")
