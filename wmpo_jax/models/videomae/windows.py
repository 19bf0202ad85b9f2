"""Scores every window of a video (reference: verl/workers/rollout/robwm_rollout.py:237-288)."""

import jax
import jax.numpy as jnp

from wmpo_jax.models.micro_batches import map_rows
from wmpo_jax.models.videomae.model import VideoMAE


def score_windows(model: VideoMAE, video_BTHWC: jax.Array, *, micro_batch: int = 128) -> jax.Array:
    """Logits of the windows of `num_frames` frames, stride 1, in ascending order.

    Each frame is preprocessed and projected once, though up to `num_frames` windows share it.

    Args:
      video_BTHWC: uint8 frames of any size; T >= num_frames.
      micro_batch: windows (over all videos) that go through the transformer at once.

    Returns:
      logits_BTX: float32, (B, T - num_frames + 1, num_labels).
    """
    config = model.config
    tubelets_BTPD = model.embed_tubelets(model.preprocess(video_BTHWC))
    batch, frames = video_BTHWC.shape[:2]
    windows = frames - config.num_frames + 1
    layers = [
        tubelets_BTPD[:, place : place + windows]
        for place in range(0, config.num_frames, config.tubelet_size)
    ]
    windows_BTPD = jnp.stack(layers, axis=2).reshape(batch * windows, *_window_shape(model))
    logits_BX = map_rows(model.classify, windows_BTPD, micro_batch)
    return logits_BX.reshape(batch, windows, -1)


def _window_shape(model: VideoMAE) -> tuple[int, int, int]:
    config = model.config
    return config.num_tubelets, config.num_patches, config.hidden_size
