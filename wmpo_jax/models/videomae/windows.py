"""Scores every window of a video and finds the first that shows success (wmpo section 4.5)."""

import jax
import jax.numpy as jnp

from wmpo_jax.models.micro_batches import map_rows
from wmpo_jax.models.videomae.model import VideoMAE


def score_windows(
    model: VideoMAE, video_BTHWC: jax.Array, *, min_steps: int = 0, micro_batch: int = 128
) -> jax.Array:
    """Logits of the windows of `num_frames` frames, stride 1, in ascending order.

    Each frame is preprocessed and projected once, though up to `num_frames` windows share it.

    Args:
      video_BTHWC: uint8 frames of any size; T >= min_steps + num_frames.
      min_steps: the first window is frames min_steps .. min_steps + num_frames - 1; the reference
        hard-codes 100, no success is looked for earlier.
      micro_batch: windows (over all videos) that go through the transformer at once.

    Returns:
      logits_BTX: float32, (B, T - min_steps - num_frames + 1, num_labels).
    """
    config = model.config
    tubelets_BTPD = model.embed_tubelets(model.preprocess(video_BTHWC[:, min_steps:]))
    batch, frames = video_BTHWC.shape[:2]
    windows = frames - min_steps - config.num_frames + 1
    layers = [
        tubelets_BTPD[:, place : place + windows]
        for place in range(0, config.num_frames, config.tubelet_size)
    ]
    windows_BTPD = jnp.stack(layers, axis=2).reshape(batch * windows, *_window_shape(model))
    logits_BX = map_rows(model.classify, windows_BTPD, micro_batch)
    return logits_BX.reshape(batch, windows, -1)


def find_success(
    success_prob_BT: jax.Array, threshold: float | jax.Array, *, window: int, min_steps: int = 0
) -> tuple[jax.Array, jax.Array]:
    """The first window whose success probability reaches the threshold ends the episode.

    Args:
      success_prob_BT: of each window, ascending, the first ending before frame min_steps + window.
        The reference uses the sigmoid of the success logit, not a softmax.
      threshold: in [0, 1]; `>=` counts.
      window: frames of a window.
      min_steps: as given to `score_windows`.

    Returns:
      complete_B: bool.
      finish_step_B: int32 index of the last frame of that window, which is the number of executed
        actions; the last frame of the video when no window succeeds.
    """
    hit_BT = success_prob_BT >= threshold
    complete_B = hit_BT.any(-1)
    last = hit_BT.shape[-1] - 1
    index_B = jnp.where(complete_B, jnp.argmax(hit_BT, axis=-1), last)
    return complete_B, (index_B + min_steps + window - 1).astype(jnp.int32)


def _window_shape(model: VideoMAE) -> tuple[int, int, int]:
    config = model.config
    return config.num_tubelets, config.num_patches, config.hidden_size
