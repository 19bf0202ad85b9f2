"""Prints LIBERO's own list of tasks and the numbers of their stored states, as JSON."""

import json

from libero.libero.benchmark import task_maps  # pyright: ignore[reportMissingImports]

from wmpo_jax.envs.libero.benchmark import HORIZONS, initial_states

if __name__ == "__main__":
    rows = {
        suite: {
            "languages": [task.language for task in task_maps[suite].values()],
            "states": [len(initial_states(suite, task)) for task in range(len(task_maps[suite]))],
        }
        for suite in HORIZONS
    }
    print(json.dumps(rows))
