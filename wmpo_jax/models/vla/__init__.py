"""The policy: two vision towers, a projector and a bidirectional Llama that emits action chunks."""

from wmpo_jax.models.vla.config import LlamaConfig, ViTConfig, VLAConfig
from wmpo_jax.models.vla.policy import VLA
from wmpo_jax.models.vla.tokenizer import PromptTokenizer

__all__ = ["VLA", "LlamaConfig", "PromptTokenizer", "VLAConfig", "ViTConfig"]
