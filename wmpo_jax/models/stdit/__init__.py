"""STDiT: the action-conditioned spatial-temporal diffusion transformer that imagines frames."""

from wmpo_jax.models.stdit.config import STDiTConfig
from wmpo_jax.models.stdit.stdit import HistoryCache, STDiT

__all__ = ["HistoryCache", "STDiT", "STDiTConfig"]
