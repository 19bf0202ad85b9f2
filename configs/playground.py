"""Environments of MuJoCo Playground, with the networks of configs/tiny.py (docs/playground.md).

    python -m wmpo_jax.main --config=configs/playground.py:smoke --config.task=playground/BallInCup
    python -m wmpo_jax.main --config=configs/playground.py --config.task=playground/PandaPickCube

Needs `pip install 'wmpo_jax[playground]'`. `:smoke` runs every stage for a few steps. Without a
variant it has the sizes of configs/tiny.py at 64 pixels; no result has been made with it.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" or "smoke"."""
    if variant not in ("", "smoke"):
        raise ValueError("choose smoke or none")
    config = tiny.get_config(variant)
    config.task = "playground/PandaPickCube"
    # "" and 0: as envs/playground/rules.py declares them.
    config.playground = ConfigDict(
        {
            "instruction": "",
            "metric": "",
            "at_least": 0.0,
            "camera": "",
            "horizon": 0,
            "chunk": 0,
        }
    )
    if variant == "smoke":
        config.playground.update(horizon=8, chunk=4)
        config.demos.episodes = 8
        config.play.episodes = 8
        config.collect.starts = 1
        config.gates.episodes = 8
        config.evaluate.update(episodes=8, batch_size=8)
    else:
        config.image_size = 64
    return config
