"""A real robot's episodes and no simulator: stages 2 to 6 on two datasets.

    python examples/real_robot.py --demos=DEMOS --workdir=RUN
    python examples/real_robot.py --demos=DEMOS --rollouts=ROLLOUTS --workdir=RUN

The first call imitates the demonstrations (stage 2). Let that policy act on the robot, P times, and
store what happens as a second dataset in which every episode has an outcome (stage 3).
The second call trains autoencoder and world model on both (4), the reward model on the
rollouts (5), and improves the policy in imagination (6), in episodes that begin where a recorded
one began. Any format of docs/data.md will do; LeRobot is what most robots write. Any field of
configs/tiny.py can be set as in `wmpo_jax.main`: `--config.sft.steps=4000`.

Actions must be differences (zeros: stand still): an episode that ended early is taken to have stood
still from then on.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError

CONFIG = Path(__file__).parents[1] / "configs" / "tiny.py"
TASK = "my_robot"


def main(argv: Sequence[str]) -> int:
    """Runs `argv` (flags without the program's name); returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demos", required=True, type=Path, help="dataset to imitate")
    parser.add_argument("--rollouts", type=Path, help="dataset of what the imitated policy did")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--variant", default="", help="of configs/tiny.py, such as smoke")
    parser.add_argument("--chunks", type=int, default=3, help="in an imagined episode")
    flags, rest = parser.parse_known_args(argv)
    try:
        run(flags, [flag.removeprefix("--config.") for flag in rest])
    except UserError as error:
        print(f"real_robot: {error}", file=sys.stderr)
        return 2
    return 0


def run(flags: argparse.Namespace, overrides: list[str]) -> None:
    spec = f"{CONFIG}:{flags.variant}" if flags.variant else str(CONFIG)
    config = load_config(spec, [f"data.source={flags.demos}", f"task={TASK}", *overrides])
    environment.prepare(config.cpu_devices)
    # Only now may JAX be imported: it reads the environment while it starts.
    from wmpo_jax.assembly.trained import TrainedRun
    from wmpo_jax.envs import registry
    from wmpo_jax.runtime.mesh import make_mesh
    from wmpo_jax.runtime.workdir import Workdir
    from wmpo_jax.stages import run_all

    env = robot(flags.demos, config.image_size, config.data.chunk, flags.chunks)
    registry.add(TASK, lambda image_size: env)
    workdir, mesh = Workdir(flags.workdir, config), make_mesh(config)
    run_all(config, workdir, mesh, ["demos", "sft"])
    if flags.rollouts is None:
        print("now record what this policy does on the robot, and give it as --rollouts")
        return
    if not workdir.done("collect"):
        adopt(TrainedRun(config, workdir, mesh, env), flags.rollouts)
    run_all(config, workdir, mesh, ["autoencoder", "world_model", "reward", "improve", "report"])


def robot(demos: Path, image_size: int, chunk: int, chunks: int) -> Any:
    """The task as imagination needs it: words, sizes, and first frames to begin from."""
    import jax.numpy as jnp
    import numpy as np

    from wmpo_jax.data.episodes import checked_frames
    from wmpo_jax.data.loading import resized
    from wmpo_jax.data.mixture import open_mixture
    from wmpo_jax.envs.protocol import EnvState
    from wmpo_jax.envs.recorded import RecordedTask

    @dataclass
    class Robot(RecordedTask):
        """Nobody can act here, but episodes can begin where recorded ones began."""

        first_XHWC: Any = None
        instruction_id_X: Any = None

        def reset(self, seed: Any) -> EnvState:
            start, no = seed % len(self.instruction_id_X), jnp.zeros((), bool)
            return EnvState(start, self.instruction_id_X[start], no, no, jnp.int32(0), ())

        def render(self, state: EnvState) -> Any:
            return self.first_XHWC[state.physics]

    mixture = open_mixture(demos)
    first, instruction_ids = [], []
    for dataset in mixture.datasets:
        for entry in dataset.episodes:
            frames = checked_frames(dataset.source, entry.index, np.arange(1))
            first.append(resized(frames, image_size)[0])
            instruction_ids.append(mixture.instructions.index(entry.instruction))
    return Robot(
        mixture.instructions,
        mixture.action_dim,
        chunk * chunks,
        chunk,
        image_size,
        TASK,
        jnp.asarray(np.stack(first)),
        jnp.asarray(np.asarray(instruction_ids, np.int32)),
    )


def adopt(run: Any, rollouts: Path) -> None:
    """Stage 3 by the robot: its episodes in the place that stage `collect` would fill.

    Raises:
      UserError: an episode has no outcome or an unknown instruction.
    """
    import numpy as np

    from wmpo_jax.data.dataset import open_dataset
    from wmpo_jax.data.episodes import read_episode
    from wmpo_jax.data.loading import resized
    from wmpo_jax.runtime.files import save_arrays

    env, workdir, dataset = run.task, run.workdir, open_dataset(rollouts)
    rows = []
    for entry in dataset.episodes:
        if entry.success is None or entry.instruction not in env.instructions:
            raise UserError(
                f"Episode {entry.index} of {rollouts} must say whether it succeeded, and ask for "
                f"one of {', '.join(env.instructions)}: record it so."
            )
        episode = read_episode(dataset.source, entry.index)
        frames = _held(resized(episode.frames_FHWC, env.image_size), env.horizon + 1)
        stand_still = np.zeros((env.horizon, env.action_dim), np.float32)
        actions = np.concatenate([episode.info.actions_NA, stand_still])[: env.horizon]
        normalized = run.statistics.normalize(actions, clip=False)
        success = entry.success and episode.info.finish_step <= env.horizon
        rows.append(
            {
                "frames_BTHWC": frames,
                "actions_BNKA": np.reshape(normalized, (-1, env.chunk, env.action_dim)),
                "instruction_id_B": np.int32(env.instructions.index(entry.instruction)),
                "success_B": np.bool_(success),
                "finish_step_B": np.int32(episode.info.finish_step if success else env.horizon),
            }
        )
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    arrays["actions_BNKA"] = arrays["actions_BNKA"].astype(np.float32)
    save_arrays(workdir.data("rollouts") / "episodes.npz", arrays)
    result = {"episodes": len(rows), "success_rate": float(arrays["success_B"].mean())}
    steps = sum(entry.steps for entry in dataset.episodes)
    workdir.ledger.append(
        "collect", "rollouts", control_steps=steps, source=str(rollouts), **result
    )
    workdir.mark_done("collect", {"seconds": 0.0, **result})


def _held(frames_FHWC: Any, count: int) -> Any:
    """`count` frames: the last one stays when the video is over."""
    import numpy as np

    return frames_FHWC[np.minimum(np.arange(count), len(frames_FHWC) - 1)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
