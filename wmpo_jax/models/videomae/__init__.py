"""VideoMAE over windows of frames: the network of the reward model."""

from wmpo_jax.models.videomae.model import VideoMAE, VideoMAEConfig
from wmpo_jax.models.videomae.windows import score_windows

__all__ = ["VideoMAE", "VideoMAEConfig", "score_windows"]
