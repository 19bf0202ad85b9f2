"""LeRobot's own library (0.4) beside our reader and writer, in an environment of its own.

    PYTHON benchmarks/lerobot_library.py write FOLDER           # a small dataset, by lerobot
    PYTHON benchmarks/lerobot_library.py read FOLDER FRAMES.npz # a dataset of ours, by lerobot

PYTHON is of an environment with `pip install 'lerobot==0.4.*'`. `write` makes the fixture of
tests/data/test_lerobot_library.py; `read` compares every frame and action of a dataset that
`python -m wmpo_jax.data convert --format=lerobot` wrote with FRAMES.npz (arrays `frames` and
`actions`, all episodes one after the other) and prints the largest differences.
"""

import sys
from pathlib import Path

import numpy as np

EPISODES, STEPS, SIDE, FPS = 2, 6, 16, 10


def episode(number: int) -> tuple[np.ndarray, np.ndarray]:
    """frames uint8 [T, H, W, 3] and actions float32 [T, 3] that a formula gives."""
    t, y, x = np.ogrid[:STEPS, :SIDE, :SIDE]
    level = 20 * number + 7 * t + 3 * y + 5 * x
    frames = np.stack([level, 2 * level, 255 - level], axis=-1).astype(np.uint8)
    steps = np.arange(STEPS, dtype=np.float32)[:, None]
    return frames, np.sin(steps + np.arange(3, dtype=np.float32) + number)


def write(folder: str) -> None:
    """Two episodes with pictures in the tables."""
    from lerobot.datasets.lerobot_dataset import (  # pyright: ignore[reportMissingImports]
        LeRobotDataset,
    )

    features = {
        "observation.images.front": {
            "dtype": "image",
            "shape": (SIDE, SIDE, 3),
            "names": ["height", "width", "channels"],
        },
        "action": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    }
    dataset = LeRobotDataset.create(
        "tests/formula", FPS, features, root=folder, use_videos=False, robot_type="none"
    )
    for number in range(EPISODES):
        for frame, action in zip(*episode(number), strict=True):
            row = {"observation.images.front": frame, "action": action}
            dataset.add_frame(row | {"task": f"follow formula {number}"})
        dataset.save_episode()
    dataset.finalize()


def read(folder: str, expected: str) -> None:
    """Every frame of the dataset, in the order of its tables."""
    from lerobot.datasets.lerobot_dataset import (  # pyright: ignore[reportMissingImports]
        LeRobotDataset,
    )

    dataset, arrays = LeRobotDataset("tests/ours", root=folder), np.load(expected)
    (camera,) = dataset.meta.camera_keys
    count, frame_error, action_error = len(dataset), 0.0, 0.0
    for number in range(count):
        row = dataset[number]
        picture = (row[camera].numpy() * 255).round().transpose(1, 2, 0)
        frame_error = max(frame_error, float(np.abs(picture - arrays["frames"][number]).max()))
        difference = np.abs(row["action"].numpy() - arrays["actions"][number]).max()
        action_error = max(action_error, float(difference))
    print(f"{count} frames, largest difference {frame_error} levels, {action_error} of actions")
    assert count == len(arrays["actions"])


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)
    {"write": write, "read": read}[command](*arguments)
