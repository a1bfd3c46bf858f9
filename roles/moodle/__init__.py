"""A Moodle that the university runs already: its AI provider, and nothing else of that machine."""

from pyinfra.api import deploy

from flexi.operations import moodle
from flexi.plan.model.moodle import MoodlePlan


@deploy("Moodle")
def install(moodle_plan: MoodlePlan, new_key: bool) -> None:
    """Set the provider up as Moodle's web server."""
    moodle.configure_provider(
        name=f"Set up the provider {moodle_plan.name} in Moodle",
        moodle=moodle_plan,
        new_key=new_key,
        _sudo=True,
        _sudo_user=moodle_plan.host.web_user,
    )
