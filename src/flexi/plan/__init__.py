"""What exactly runs where: a pure function of the site."""

from flexi.plan.build.site import build_plan
from flexi.plan.model.site import Plan

__all__ = ["Plan", "build_plan"]
