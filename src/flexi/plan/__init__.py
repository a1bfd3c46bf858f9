"""What exactly runs where: a pure function of the site."""

from .build import build_plan
from .model import Plan

__all__ = ["Plan", "build_plan"]
