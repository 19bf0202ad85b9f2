"""STDiT3 with actions in PyTorch, as plain functions of an original state dict.

No installable package has the original module (github.com/WM-PO/WMPO at 09f60b7:
dependencies/opensora/opensora/models/stdit/stdit3.py), so it is written anew here;
tests/parity/test_reference_golden.py compares it with the golden tensors.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import (
    conv3d,
    gelu,
    layer_norm,
    linear,
    pad,
    scaled_dot_product_attention,
    silu,
)

from wmpo_jax.models.stdit import STDiTConfig

HISTORY_TIMESTEP = 15.0


def forward(
    weights: Mapping[str, Tensor],
    config: STDiTConfig,
    x_BCTHW: Tensor,
    timestep_B: Tensor,
    actions_BKA: Tensor,
    mask_BT: Tensor,
    height_px: float,
    width_px: float,
) -> Tensor:
    """[B, 2C, T, H, W]; mask True = frame being denoised. Computes in the type of the weights."""
    b, _, t, h, w = x_BCTHW.shape
    p, q = config.patch
    rows, columns = -(-h // p), -(-w // q)
    x = pad(x_BCTHW, (0, -w % q, 0, -h % p))
    kernel, bias = weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"]
    x = conv3d(x, kernel, bias, stride=(1, p, q))
    x = x.flatten(3).permute(0, 2, 3, 1)  # B T S D
    x = x + position_embedding(config, rows, columns, height_px, width_px, x.device).to(x.dtype)

    noisy = _timestep(weights, timestep_B)[:, None]
    clean = _timestep(weights, torch.full_like(timestep_B[:1], HISTORY_TIMESTEP))[:, None]
    action = _mlp(weights, "action_embedder.fc.0", "action_embedder.fc.2", actions_BKA, silu)
    none = weights["action_embedder.none_action.weight"].expand(b, t - config.chunk, -1)
    conditions = torch.where(mask_BT[..., None], noisy + torch.cat([none, action], 1), clean)
    spatial = _dense(weights, "t_block.1", silu(conditions))
    plain = torch.where(mask_BT[..., None], noisy, clean)
    temporal = _dense(weights, "t_block.1", silu(plain))
    for i in range(config.depth):
        x = _block(weights, f"spatial_blocks.{i}", config, x, spatial, causal=False)
        x = _block(weights, f"temporal_blocks.{i}", config, x, temporal, causal=True)

    table = weights["final_layer.scale_shift_table"]
    out = _modulate(x, *(noisy[:, :, None] + table).chunk(2, 2))
    again = _modulate(out, *(clean[:, :, None] + table).chunk(2, 2))
    out = torch.where(mask_BT[..., None, None], out, again)
    out = _dense(weights, "final_layer.linear", out)
    out = out.reshape(b, t, rows, columns, p, q, config.out_channels)
    out = out.permute(0, 6, 1, 2, 4, 3, 5).reshape(b, -1, t, rows * p, columns * q)
    return out[..., :h, :w]


def _block(weights, name: str, config: STDiTConfig, x: Tensor, conditions: Tensor, causal: bool):
    b, t, s, d = x.shape
    table = weights[f"{name}.scale_shift_table"]
    six = (conditions.reshape(*conditions.shape[:2], 6, d) + table).chunk(6, 2)
    shift, scale, gate, shift2, scale2, gate2 = six
    qkv = _dense(weights, f"{name}.attn.qkv", _modulate(x, shift, scale))
    q, k, v = qkv.reshape(b, t, s, 3, config.heads, -1).unbind(3)  # B T S H E
    q = _rms_norm(q, weights[f"{name}.attn.q_norm.weight"])
    k = _rms_norm(k, weights[f"{name}.attn.k_norm.weight"])
    if causal:
        q, k, v = (a.permute(0, 2, 3, 1, 4) for a in (q, k, v))  # B S H T E
        q, k = _rotate(q, weights["rope.freqs"]), _rotate(k, weights["rope.freqs"])
        attended = scaled_dot_product_attention(q, k, v, is_causal=True).permute(0, 3, 1, 2, 4)
    else:
        q, k, v = (a.transpose(2, 3) for a in (q, k, v))  # B T H S E
        attended = scaled_dot_product_attention(q, k, v).transpose(2, 3)
    x = x + gate * _dense(weights, f"{name}.attn.proj", attended.reshape(x.shape))
    tanh_gelu = lambda a: gelu(a, approximate="tanh")  # noqa: E731
    normed = _modulate(x, shift2, scale2)
    return x + gate2 * _mlp(weights, f"{name}.mlp.fc1", f"{name}.mlp.fc2", normed, tanh_gelu)


def position_embedding(
    config: STDiTConfig,
    rows: int,
    columns: int,
    height_px: float,
    width_px: float,
    device: torch.device | None = None,
) -> Tensor:
    """[S, D]: first half of the channels the column, second the row; sines, then cosines."""
    quarter = config.hidden // 4
    inverse = 10000.0 ** (-torch.arange(quarter, device=device) / quarter)
    scale = math.sqrt(height_px * width_px) / config.input_square_px
    base = round(math.sqrt(rows * columns))

    def axis(count: int) -> Tensor:
        phase = (torch.arange(count, device=device) / scale * base / count)[:, None] * inverse
        return torch.cat([phase.sin(), phase.cos()], -1)

    column = axis(columns)[None].expand(rows, -1, -1)
    row = axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([column, row], -1).reshape(rows * columns, -1)


def _timestep(weights, t_B: Tensor) -> Tensor:
    index = torch.arange(128, device=t_B.device)
    phase = t_B[:, None] * torch.exp(-math.log(10000.0) * index / 128)
    dtype = weights["t_embedder.mlp.0.weight"].dtype
    features = torch.cat([phase.cos(), phase.sin()], -1).to(dtype)
    return _mlp(weights, "t_embedder.mlp.0", "t_embedder.mlp.2", features, silu)


def _rotate(x: Tensor, freqs: Tensor) -> Tensor:
    """Pairs (0, 1), (2, 3), ... of the last axis turn by position (axis -2) * frequency."""
    phase = torch.arange(x.shape[-2], device=x.device)[:, None] * freqs
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = even * phase.cos() - odd * phase.sin(), odd * phase.cos() + even * phase.sin()
    return torch.stack(turned, -1).flatten(-2)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def _dense(weights, name: str, x: Tensor) -> Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _mlp(weights, first: str, second: str, x: Tensor, activation) -> Tensor:
    return _dense(weights, second, activation(_dense(weights, first, x)))
