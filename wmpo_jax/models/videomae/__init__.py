"""Success classifier over windows of frames (VideoMAE): the reward model of imagined episodes."""

from wmpo_jax.models.videomae.model import VideoMAE, VideoMAEConfig
from wmpo_jax.models.videomae.windows import find_success, score_windows

__all__ = ["VideoMAE", "VideoMAEConfig", "find_success", "score_windows"]
