"""The episodes of this run: which data there are, and which stage made them."""

from wmpo_jax.assembly.trained import round_name
from wmpo_jax.stages.context import RunContext

SOURCES = {"demos": "demos", "play": "demos", "rollouts": "collect"}  # data -> stage that made it


def recorded(context: RunContext) -> dict[str, str]:
    """Data of this run's own episodes -> the stage that made it, those of all rounds so far.

    With a dataset on disk that takes the place of demonstrations and play these are the rollouts
    in the environment, if there is one.
    """
    later = {
        round_name("rollouts", number): round_name("collect", number)
        for number in range(2, context.round + 1)
    }
    if context.mixture is None:
        unused = set() if context.config.play.episodes else {"play"}
        return {name: stage for name, stage in SOURCES.items() if name not in unused} | later
    return {"rollouts": SOURCES["rollouts"]} | later if context.config.task else {}
