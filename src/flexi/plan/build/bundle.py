"""Hosts without internet in the plan: everything from the site's bundle."""

from __future__ import annotations

from flexi.plan.build.needs import package_set, set_name
from flexi.plan.model.bundle import BundlePlan
from flexi.plan.model.site import HostPlan
from flexi.site.model import Site

BUNDLE_HOME = "/var/lib/flexi/bundle"
APT_CONFIG = "/etc/flexi/apt-bundle.conf"
APT_LISTS = "/var/lib/flexi/apt-lists"


def from_bundle(site: Site, plan: HostPlan) -> HostPlan:
    """The plan of a host that gets everything from the site's bundle; as it was where the site has none."""
    folder = site.beside(site.content.mirrors.bundle)
    if folder is None:
        return plan
    packages = package_set(plan)
    # Repositories of the site's own are where the bundle was made from; the hosts need not reach them.
    base = plan.base.model_copy(update={"apt_sources": (), "apt_tools": (), "apt_sources_only": None, "apt_files": ()})
    return plan.model_copy(
        update={
            "base": base,
            "bundle": BundlePlan(
                folder=folder,
                home=BUNDLE_HOME,
                apt_uri=f"file:{BUNDLE_HOME}/apt/{packages.platform}",
                apt_suite=set_name(packages),
                apt_config=APT_CONFIG,
                apt_lists=APT_LISTS,
            ),
            "environment": (*plan.environment, ("APT_CONFIG", APT_CONFIG)),
        }
    )
