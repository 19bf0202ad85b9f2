"""Names and layouts of the original STDiT3 state dict, and the way to ours and back.

Ours differ from the original in four ways: linear kernels are (in, out); the patch convolution is a
linear map over (row, column, channel); the blocks of all depths are stacked on a leading axis; and
within each head of a temporal block the query and key channels are stored even ones first (see
`attention.rotate`). Tensors that the network never reads (cross-attention, caption and frame-rate
embedders) are listed by `unused_shapes`; conversion keeps them, so that a round trip is complete.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from wmpo_jax.models.stdit.config import STDiTConfig

Path = tuple[str, ...]
Convert = Callable[[np.ndarray, STDiTConfig], np.ndarray]

ROTARY_NAME = "rope.freqs"


class Layout(NamedTuple):
    """How one tensor is rearranged: original -> ours, and ours -> original."""

    read: Convert
    write: Convert


def _head_order(config: STDiTConfig) -> np.ndarray:
    return np.arange(config.head_dim).reshape(-1, 2).T.ravel()


def _reorder_heads(qkv: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Reorders the channels of each query and key head along axis 0 of (3 * hidden, ...)."""
    rows = np.arange(len(qkv)).reshape(3, -1, order.size)
    rows[:2] = rows[:2][..., order]
    return qkv[rows.ravel()]


def _read_conv(weight: np.ndarray, config: STDiTConfig) -> np.ndarray:
    return weight.transpose(2, 3, 4, 1, 0).reshape(-1, config.hidden)


def _write_conv(kernel: np.ndarray, config: STDiTConfig) -> np.ndarray:
    split = kernel.reshape(1, *config.patch, config.in_channels, config.hidden)
    return split.transpose(4, 3, 0, 1, 2)


def _read_rotary(tensor: np.ndarray, config: STDiTConfig) -> np.ndarray:
    return _reorder_heads(tensor, _head_order(config))


def _write_rotary(tensor: np.ndarray, config: STDiTConfig) -> np.ndarray:
    return _reorder_heads(tensor, np.argsort(_head_order(config)))


SAME = Layout(lambda x, c: x, lambda x, c: x)
LINEAR = Layout(lambda x, c: x.T, lambda x, c: x.T)
ROW = Layout(lambda x, c: x[0], lambda x, c: x[None])
PATCHES = Layout(_read_conv, _write_conv)
ROTARY_NORM = Layout(lambda x, c: x[_head_order(c)], lambda x, c: x[np.argsort(_head_order(c))])
ROTARY_BIAS = Layout(_read_rotary, _write_rotary)
ROTARY_LINEAR = Layout(lambda x, c: _read_rotary(x, c).T, lambda x, c: _write_rotary(x.T, c))

# original linear layer -> our path; each has a weight and a bias
LINEARS = {
    "t_embedder.mlp.0": "timestep_mlp.fc1",
    "t_embedder.mlp.2": "timestep_mlp.fc2",
    "t_block.1": "modulation",
    "action_embedder.fc.0": "action_embedder.mlp.fc1",
    "action_embedder.fc.2": "action_embedder.mlp.fc2",
    "final_layer.linear": "final_layer.linear",
}
BLOCK_LINEARS = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class Entry(NamedTuple):
    """One original tensor: its name, our path, the index in the stack of pairs, the layout."""

    name: str
    path: Path
    index: int | None
    layout: Layout


def _linear_entries(name: str, path: str, index: int | None, rotary: bool) -> Iterator[Entry]:
    weight, bias = (ROTARY_LINEAR, ROTARY_BIAS) if rotary else (LINEAR, SAME)
    yield Entry(f"{name}.weight", (*path.split("."), "kernel"), index, weight)
    yield Entry(f"{name}.bias", (*path.split("."), "bias"), index, bias)


def _block_entries(kind: str, index: int) -> Iterator[Entry]:
    block, rotary = f"{kind}_blocks.{index}", kind == "temporal"
    ours = ("pairs", kind)
    yield Entry(f"{block}.scale_shift_table", (*ours, "scale_shift_table"), index, SAME)
    for norm in ("q_norm", "k_norm"):
        layout = ROTARY_NORM if rotary else SAME
        yield Entry(f"{block}.attn.{norm}.weight", (*ours, "attention", norm), index, layout)
    for name, path in BLOCK_LINEARS.items():
        reorder = rotary and name == "attn.qkv"
        yield from _linear_entries(f"{block}.{name}", f"pairs.{kind}.{path}", index, reorder)


def key_table(config: STDiTConfig) -> list[Entry]:
    """Every original tensor that the network reads."""
    entries = [
        Entry("x_embedder.proj.weight", ("patch_embed", "kernel"), None, PATCHES),
        Entry("x_embedder.proj.bias", ("patch_embed", "bias"), None, SAME),
        Entry(
            "action_embedder.none_action.weight",
            ("action_embedder", "none_action"),
            None,
            ROW,
        ),
        Entry(
            "final_layer.scale_shift_table",
            ("final_layer", "scale_shift_table"),
            None,
            SAME,
        ),
    ]
    for name, path in LINEARS.items():
        entries += _linear_entries(name, path, None, rotary=False)
    for index in range(config.depth):
        entries += [
            *_block_entries("spatial", index),
            *_block_entries("temporal", index),
        ]
    return entries


def unused_shapes(
    config: STDiTConfig, caption_channels: int = 4096, caption_tokens: int = 300
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the original tensors that nothing reads (defaults: as released)."""
    d = config.hidden
    linears = {
        "fps_embedder.mlp.0": (d, 256),
        "fps_embedder.mlp.2": (d, d),
        "y_embedder.y_proj.fc1": (d, caption_channels),
        "y_embedder.y_proj.fc2": (d, d),
    }
    for kind in ("spatial", "temporal"):
        for index in range(config.depth):
            cross = f"{kind}_blocks.{index}.cross_attn"
            linears |= {f"{cross}.q_linear": (d, d), f"{cross}.kv_linear": (2 * d, d)}
            linears |= {f"{cross}.proj": (d, d)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes | {"y_embedder.y_embedding": (caption_tokens, caption_channels)}


def rotary_frequencies(config: STDiTConfig) -> np.ndarray:
    half = config.head_dim // 2
    return (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
