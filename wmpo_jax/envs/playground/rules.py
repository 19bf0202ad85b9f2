"""What Playground leaves open for a policy that sees pictures and words: one rule per environment.

Playground's environments have rewards, not successes: a rule names the quantity that decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from wmpo_jax.runtime.errors import UserError

REWARD = "reward"  # the name of the reward of a step among the metrics


@dataclass(frozen=True)
class Rule:
    """How an environment is asked for and when it counts as solved.

    Attributes:
      instruction: in words.
      metric: a key of the environment's metrics, or "reward".
      at_least: the episode is solved once the metric is so large.
      camera: of the MJCF; "" looks from where MuJoCo's free camera begins.
      horizon: actions in an episode; 0: Playground's episode_length, down to whole chunks.
      chunk: actions executed open-loop.
      seconds: that an action lasts; 0: Playground's ctrl_dt.
    """

    instruction: str
    metric: str
    at_least: float
    camera: str = ""
    horizon: int = 0
    chunk: int = 10
    seconds: float = 0.0


# 1 - tanh(5 d) >= 0.8 is a distance of 4 cm, after the gripper has been at the object.
_AT_TARGET = 0.8
RULES = {
    "PandaPickCube": Rule("bring the green box to the red target", "box_target", _AT_TARGET),
    "PandaPickCubeOrientation": Rule(
        "bring the green box to the red target and turn it as the target", "box_target", _AT_TARGET
    ),
    "PandaOpenCabinet": Rule("pull the handle to the red ball", "box_target", _AT_TARGET, "side"),
    "PandaRobotiqPushCube": Rule("push the box onto its target", "success", 1.0),
    "ReacherEasy": Rule("touch the target with the tip", REWARD, 1.0),
    "ReacherHard": Rule("touch the small target with the tip", REWARD, 1.0),
    "FingerTurnEasy": Rule("turn the spinner to the target", REWARD, 1.0),
    "FingerTurnHard": Rule("turn the spinner to the small target", REWARD, 1.0),
    "BallInCup": Rule("swing the ball into the cup", REWARD, 1.0),
    "PointMass": Rule("move the ball to the target", REWARD, 0.9),
}


def rule_for(environment: str, options: Mapping[str, Any]) -> Rule:
    """The rule of an environment with what config.playground changes.

    Args:
      options: fields of `Rule`; "" and 0 keep what the rule has.

    Raises:
      UserError: an environment without a rule, and no instruction and metric in `options`.
    """
    given = {name: options[name] for name in Rule.__dataclass_fields__ if options.get(name)}
    if environment in RULES:
        return replace(RULES[environment], **given)
    if not {"instruction", "metric", "at_least"} <= given.keys():
        raise UserError(
            f"It is not declared when playground/{environment} is solved: set playground."
            "instruction, playground.metric (one of its metrics, or reward) and "
            "playground.at_least."
        )
    return Rule(**given)
