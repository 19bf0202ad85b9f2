"""Episodes that are written while a robot or a simulator runs, and survive a kill.

A folder of tars in the reference's layout: each tar holds whole episodes, and appears under its
name only when it is complete and on the disk. Any number of writers may share the folder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wmpo_jax.data.episodes import Episode, EpisodeInfo
from wmpo_jax.data.webdataset import write_webdataset

NOT_IN_FILES = str.maketrans("/\\:. ", "_____")


class EpisodeWriter:
    """Writes into a folder, which `open_dataset` reads at any time.

    A tar is named after its first episode, so that work that is repeated after a kill replaces what
    it left instead of counting twice: repeat it in the same batches.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, episodes: Sequence[Episode]) -> Path:
        """Returns the new tar once it is safely on the disk."""
        name = episodes[0].info.name.translate(NOT_IN_FILES)
        path = self._folder / f"{name}.tar"
        write_webdataset(path, episodes)
        return path


def from_arrays(
    frames_BTHWC: np.ndarray,
    actions_BTA: np.ndarray,
    instructions: Sequence[str],
    success_B: np.ndarray,
    finish_step_B: np.ndarray,
    seeds_B: np.ndarray,
    *,
    source: str,
    fps: float,
) -> list[Episode]:
    """Episodes out of a batch of equally long ones, T + 1 frames for T actions each.

    Args:
      actions_BTA: in the environment's units.
      instructions: one for each episode.
      source: names the actor; an episode's name is `source`_`seed`_`place among its seed`.
    """
    episodes, seen = [], {}
    for row, seed in enumerate(int(s) for s in seeds_B):
        place = seen[seed] = seen.get(seed, -1) + 1
        info = EpisodeInfo(
            name=f"{source}_{seed}_{place}",
            actions_NA=np.asarray(actions_BTA[row], np.float32),
            num_frames=len(frames_BTHWC[row]),
            instruction=instructions[row],
            success=bool(success_B[row]),
            finish_step=int(finish_step_B[row]),
            camera="camera",
            fps=fps,
            source=source,
            seed=seed,
        )
        episodes.append(Episode(info, np.asarray(frames_BTHWC[row])))
    return episodes
