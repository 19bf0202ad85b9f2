"""The episodes of this run: which data there are, and which stage made them."""

from wmpo_jax.stages.context import RunContext

SOURCES = {"demos": "demos", "play": "demos", "rollouts": "collect"}  # data -> stage that made it


def recorded(context: RunContext) -> dict[str, str]:
    """Data of this run's own episodes -> the stage that made it.

    With a dataset on disk that takes the place of demonstrations and play these are the rollouts
    in the environment, if there is one.
    """
    if context.mixture is None:
        return SOURCES
    return {"rollouts": SOURCES["rollouts"]} if context.config.task else {}
