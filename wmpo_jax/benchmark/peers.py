"""The same programs in PyTorch: STDiT, VideoMAE, the policy and the autoencoder, on equal weights.

Every function here takes our parameters and inputs as NumPy arrays and returns a function that runs
the program once. The networks are those of `convert --verify`.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wmpo_jax.conversion import reference_models, reference_stdit
from wmpo_jax.models.stdit import STDiTConfig
from wmpo_jax.models.videomae import VideoMAEConfig

Run = Callable[[], Tensor]
Arrays = Mapping[str, np.ndarray]


class How(NamedTuple):
    """`precision`: float32 or bfloat16, of weights and computation; `compiled`: torch.compile."""

    precision: str
    compiled: bool

    @property
    def name(self) -> str:
        """For the table."""
        return f"torch {torch.__version__.partition('+')[0]}, {self.precision}, " + (
            "compiled" if self.compiled else "eager"
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of torch."""
        return getattr(torch, self.precision)


def use_all_cores() -> None:
    """As many threads as this process has cores, which is what XLA takes too."""
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place(array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on the device; integers keep their type."""
    tensor = torch.tensor(array, device=device())
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _waited(run: Run) -> Run:
    def waited() -> Tensor:
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result

    return waited


def _maybe_compiled(function: Any, how: How) -> Any:
    return torch.compile(function) if how.compiled else function


def _stdit(weights: Arrays, config: STDiTConfig, pixels: int, how: How) -> Any:
    """(function of x, t, actions, mask and weights by name, weights)."""
    tensors = {name: place(value, how.dtype) for name, value in weights.items()}

    def forward(tensors: Any, x: Tensor, t: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        return reference_stdit.forward(tensors, config, x, t, actions, mask, pixels, pixels)

    return _maybe_compiled(forward, how), tensors


def sampler(weights: Arrays, config: STDiTConfig, pixels: int, inputs: Arrays, how: How) -> Run:
    """Euler's steps over whole windows, as the reference samples (its history is not cached).

    Args:
      inputs: history_BCTHW, noise_BCTHW, actions_BKA, times_N (0 to 1000, decreasing), mask_BT.
    """
    forward, tensors = _stdit(weights, config, pixels, how)
    history, noise, actions = (
        place(inputs[name], how.dtype) for name in ("history_BCTHW", "noise_BCTHW", "actions_BKA")
    )
    mask = place(inputs["mask_BT"])
    times = [float(t) for t in inputs["times_N"]]
    channels, frames = history.shape[1:3]

    def run() -> Tensor:
        z = noise
        with torch.no_grad():
            for t, later in zip(times, [*times[1:], 0.0], strict=True):
                t_B = torch.full((len(z),), t, device=z.device)
                out = forward(tensors, torch.cat([history, z], 2), t_B, actions, mask)
                z = z + (t - later) / 1000.0 * out[:, :channels, frames:]
        return z

    return _waited(run)


def world_model_gradient(
    weights: Arrays, config: STDiTConfig, pixels: int, inputs: Arrays, how: How
) -> Run:
    """Loss of a window and its gradient by all weights; returns the loss.

    Args:
      inputs: noisy_BCTHW, target_BCTHW, actions_BKA, t_B, mask_BT.
    """
    forward, tensors = _stdit(weights, config, pixels, how)
    leaves = [x.requires_grad_() for name, x in tensors.items() if name != "rope.freqs"]
    noisy, target, actions = (
        place(inputs[name], how.dtype) for name in ("noisy_BCTHW", "target_BCTHW", "actions_BKA")
    )
    t_B, mask = place(inputs["t_B"]), place(inputs["mask_BT"])
    weight = mask[:, None, :, None, None] / mask.sum(1)[:, None, None, None, None]
    scale = 1.0 / (len(noisy) * target[0, :, 0].numel())

    def run() -> Tensor:
        out = forward(tensors, noisy, t_B, actions, mask)[:, : target.shape[1]]
        loss = ((out - target).float().square() * weight).sum() * scale
        torch.autograd.grad(loss, leaves, allow_unused=True)
        return loss.detach()

    return _waited(run)


def reward(weights: Arrays, config: VideoMAEConfig, frames_BTHWC: np.ndarray, how: How) -> Run:
    """Success probabilities [B, K] of all windows of uint8 frames of the network's own size."""
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    model = reference_models.videomae(tensors, config).to(device(), how.dtype)
    network = _maybe_compiled(model, how)
    frames = place(frames_BTHWC)
    mean, std = (torch.tensor(x, device=device()) for x in (config.image_mean, config.image_std))

    def run() -> Tensor:
        with torch.no_grad():
            pixels = ((frames / 255.0 - mean) / std).to(how.dtype)
            windows = pixels.unfold(1, config.num_frames, 1)  # B K H W C T
            batch, count = windows.shape[:2]
            windows = windows.permute(0, 1, 5, 4, 2, 3).flatten(0, 1).contiguous()
            logits = network(windows).logits.float()
            return logits.softmax(-1)[:, 1].reshape(batch, count)

    return _waited(run)


def policy(weights: Arrays, config: Any, inputs: Arrays, how: How) -> Run:
    """Scores of all action classes; inputs: pixels_BCHW normalized, prompt_BL."""
    network = _maybe_compiled(_policy(weights, config, how), how)
    pixels, prompt = place(inputs["pixels_BCHW"], how.dtype), place(inputs["prompt_BL"])

    def run() -> Tensor:
        with torch.no_grad():
            return network(pixels, prompt)

    return _waited(run)


def policy_update(weights: Arrays, config: Any, inputs: Arrays, how: How) -> Run:
    """One step of GRPO's clipped loss with AdamW on all weights; returns the loss.

    Args:
      inputs: pixels_BCHW, prompt_BL, tokens_BX int64, log_probs_BX, advantage_B.
    """
    model = _policy(weights, config, how).requires_grad_(True).train()
    network = _maybe_compiled(model, how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    pixels, prompt, tokens = (
        place(inputs[name], how.dtype) for name in ("pixels_BCHW", "prompt_BL", "tokens_BX")
    )
    old, advantage = place(inputs["log_probs_BX"]), place(inputs["advantage_B"])[:, None]

    def run() -> Tensor:
        log_probs = (network(pixels, prompt).float() / 1.6).log_softmax(-1)
        chosen = log_probs.gather(-1, tokens[..., None])[..., 0]
        ratio = (chosen - old).exp()
        clipped = ratio.clamp(0.8, 1.28)
        loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return _waited(run)


def _policy(weights: Arrays, config: Any, how: How) -> Any:
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    return reference_models.Policy(tensors, config).to(device(), how.dtype)


def decode(weights: Arrays, config: Any, latents_BCHW: np.ndarray, how: How) -> Run:
    """uint8 pixels [B, 3, H, W] of scaled latents."""
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    model = reference_models.autoencoder(tensors, config).to(device(), how.dtype)
    decoder = _maybe_compiled(model.decode, how)
    latents = place(latents_BCHW, how.dtype) / config.scaling_factor

    def run() -> Tensor:
        with torch.no_grad():
            images = decoder(latents).sample.float()
            return ((images * 0.5 + 0.5) * 255.0).clamp(0.0, 255.0).to(torch.uint8)

    return _waited(run)
