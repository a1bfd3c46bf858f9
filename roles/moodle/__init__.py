"""A Moodle that the university runs already: its AI provider, and nothing else of that machine."""

from pyinfra.api import deploy

from flexi.operations.moodle import provider_set_up
from flexi.plan.model.moodle import MoodleHostPlan, MoodlePlan


@deploy("Moodle")
def install(plan: MoodlePlan, on: MoodleHostPlan, new_key: bool) -> None:
    provider_set_up(
        name=f"Set up the provider {plan.name} in Moodle",
        plan=plan,
        new_key=new_key,
        _sudo=True,
        _sudo_user=on.web_user,
    )
