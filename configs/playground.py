"""Environments of MuJoCo Playground, with the networks of configs/tiny.py (docs/playground.md).

    python -m wmpo_jax.main --config=configs/playground.py:smoke --config.task=playground/BallInCup
    python -m wmpo_jax.main --config=configs/playground.py:point
    python -m wmpo_jax.main --config=configs/playground.py --config.task=playground/PandaPickCube

Needs `pip install 'wmpo_jax[playground]'`. `:smoke` runs every stage for a few steps. `:point` is
meant as the smallest real run: the point mass, whose demonstrators aim beside the target; its
imitation does not learn yet (docs/playground.md). Without a variant it has the sizes of
configs/tiny.py at 64 pixels; no result has been made with it.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "", "point" or "smoke"."""
    if variant not in ("", "point", "smoke"):
        raise ValueError("choose point, smoke or none")
    config = tiny.get_config("smoke" if variant == "smoke" else "")
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
            "seconds": 0.0,  # that an action lasts
        }
    )
    if variant == "smoke":
        config.playground.update(horizon=8, chunk=4)
        config.demos.episodes = 8
        config.play.episodes = 8
        config.collect.starts = 1
        config.gates.episodes = 8
        config.evaluate.update(episodes=8, batch_size=8)
    elif variant == "point":
        _point(config)
    else:
        config.image_size = 64
    return config


def _point(config: ConfigDict) -> None:
    """Pushes a ball of 1 cm to a target at most 41 cm away; motors are weak, so it glides.

    The target is touched within 2.5 cm of its middle, where Playground's reward for being near is
    exp(-0.5 (2.146 (2.5 - 1.5) / 1.5)^2) = 0.36.
    """
    config.task = "playground/PointMass"
    config.image_size = 48  # 13 mm a pixel
    config.playground.update(
        instruction="touch the target with the ball",
        metric="reward/near_target",
        at_least=0.36,
        camera="fixed",
        horizon=16,
        chunk=4,
        seconds=0.24,
    )
    config.demos.bias = 0.03  # 134 of 384 succeed: those that come from the left
    # Not tried yet: 300 steps of AdamW did not find the ball.
    config.sft.update(optimizer="muon", learning_rate=3e-3)
    # The ball's speed is not in one frame.
    config.world_model.history = 2
