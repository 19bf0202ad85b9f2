"""A made-up but complete workdir, as the stages would leave it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.runtime.files import save_record
from wmpo_jax.runtime.workdir import LAYOUT

STEPS = 300
FRAMES = 12


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def fake_workdir(path: Path) -> Path:
    """A run whose greedy success goes from 310 to 823 of 1024. Returns `path`."""
    rng = np.random.default_rng(0)
    config: dict[str, Any] = {"seed": 0, "task": "press", "sft": {"learning_rate": 1e-3}}
    config["oracle"] = {"min_gain": 0.2}
    write_json(path / "config.json", config)
    write_json(path / "layout.json", {"version": LAYOUT})
    for stage, result in fake_results().items():
        save_record(path / "stages" / f"{stage}.json", result)
    write_metrics(path / "metrics", rng)
    write_lines(
        path / "ledger.jsonl",
        [
            {"stage": "demos", "name": "demos", "episodes": 384},
            {"stage": "demos", "name": "play", "episodes": 8512},
            {"stage": "collect", "name": "rollouts", "episodes": 128},
            {"stage": "evaluate", "name": "evaluation", "episodes": 4096},
        ],
    )
    write_clips(path / "data" / "videos")
    (path / "data" / "evaluation").mkdir()
    outcomes: Any = fake_outcomes()  # savez has other keywords too
    np.savez(path / "data" / "evaluation" / "results.npz", **outcomes)
    return path


def fake_outcomes() -> dict[str, np.ndarray]:
    """Of the three starts that are recorded."""
    base, wmpo = np.array([False, True, True]), np.array([True, True, False])
    return {"seeds": np.arange(3), "base_greedy": base, "wmpo_greedy": wmpo}


def fake_results() -> dict[str, dict[str, Any]]:
    gates = {
        "success rate gap": {"value": 0.07, "bound": 0.05, "passed": False},
        "precision": {"value": 0.81, "bound": 0.75, "passed": True},
    }
    before = {
        "seconds": 8.0,
        "n": 128,
        "free_imagined_rate": 0.4,
        "psnr": {"1": 34.2, "half": 28.9, "full": 26.1},
        "psnr_copy_first": {"1": 30.1, "half": 19.2, "full": 16.7},
        "psnr_curve": list(np.linspace(34.2, 26.1, FRAMES)),
        "psnr_copy_curve": list(np.linspace(30.1, 16.7, FRAMES)),
        "precision": 0.81,
        "recall": 0.77,
        "agreement": 0.84,
        "imagined_rate": 0.42,
        "real_rate": 0.35,
        "tp": 38,
        "fp": 9,
        "fn": 11,
        "tn": 70,
    }
    after = before | {"real_rate": 0.79, "imagined_rate": 0.82, "free_imagined_rate": 0.83}
    after |= {"tp": 97, "fp": 8, "fn": 6, "tn": 17, "psnr_curve": list(np.linspace(34, 25, FRAMES))}
    held_out = {"tp": 190, "fp": 6, "fn": 12, "tn": 439}
    calibration = {
        "confidence": [0.1, 0.3, 0.5, 0.7, 0.9],
        "frequency": [0.04, 0.25, 0.55, 0.66, 0.97],
        "count": [400, 30, 12, 25, 180],
    }
    return {
        "demos": {"seconds": 39.0, "demo_success": 0.67, "invalid": 0},
        "sft": {"seconds": 78.2, "steps": 900},
        "collect": {"seconds": 2.4, "episodes": 128, "success_rate": 0.36},
        "autoencoder": {"seconds": 97.1, "psnr": 30.2},
        "world_model": {"seconds": 402.0, "steps": 2600, "parameters": 1_050_000},
        "reward": {"seconds": 16.3, "threshold": 0.97, "rollouts": held_out}
        | {"calibration": calibration},
        "gates": before | {"gates": gates},
        "gates_after": after,
        "oracle": {"seconds": 61.0, "gain": 0.57, "passed": True, "rates": {"0": 0.3, "8": 0.87}},
        "improve": {
            "seconds": 44.1,
            "iterations": 12,
            "imagined_episodes": 3072,
            "phase_seconds": {"sample": 35.3, "update": 8.8},
        },
        "evaluate": {
            "seconds": 11.2,
            "policies": {
                "base": {
                    "greedy": {"successes": 310, "n": 1024},
                    "sampled": {"successes": 371, "n": 1024},
                },
                "wmpo": {
                    "greedy": {"successes": 823, "n": 1024},
                    "sampled": {"successes": 755, "n": 1024},
                },
            },
            "paired": {"greedy": {"difference": 0.501, "low": 0.464, "high": 0.536}},
            "primary": "greedy",
            "seed": 7,
            "invalid": 0,
        },
    }


def write_metrics(folder: Path, rng: np.random.Generator) -> None:
    for stage, floor in (("sft", 1.2), ("autoencoder", 0.004), ("world_model", 0.02)):
        loss = floor * (1 + 40 * np.exp(-np.arange(STEPS) / 25)) * rng.uniform(0.8, 1.2, STEPS)
        write_lines(
            folder / f"{stage}.jsonl",
            [
                {"step": 3 * i, "time": i, f"{stage}/loss": x, f"{stage}/grad_norm": x**0.5}
                for i, x in enumerate(loss.tolist())
            ],
        )
    improve = [
        {
            "step": i,
            "improve/success": 0.4 + 0.42 * i / 12 + float(rng.normal(0, 0.015)),
            "improve/groups": int(rng.integers(12, 24)),
            "improve/loss": float(rng.normal(0, 0.01)),
            "improve/clip_fraction": float(rng.uniform(0.02, 0.08)),
            "improve/entropy": 1.9 - 0.06 * i,
        }
        for i in range(1, 13)
    ]
    write_lines(folder / "improve.jsonl", improve)


def write_clips(folder: Path) -> None:
    """A dot that falls toward a pad; on the right it misses."""
    left = np.full((3, FRAMES + 1, 32, 32, 3), 205, np.uint8)
    left[:, :, 20:28, 18:26] = (190, 90, 60)
    right = left.copy()
    for clip in range(3):
        for t in range(FRAMES + 1):
            left[clip, t, 2 + 2 * t - clip : 5 + 2 * t - clip, 20:23] = (40, 60, 120)
            right[clip, t, 2 + 2 * t - clip : 5 + 2 * t - clip, 9:12] = (40, 60, 120)
    folder.mkdir(parents=True, exist_ok=True)
    captions = {
        "real_imagined_before": ["both succeed: real | imagined"] * 3,
        "base_improved": [f"start {seed}: base | WMPO" for seed in range(3)],
    }
    for name, caption in captions.items():
        np.savez(folder / f"{name}.npz", left_BTHWC=right, right_BTHWC=left, caption=caption)
