"""The same networks in PyTorch, for `--verify` and the parity tests.

Parts come from transformers and diffusers; what is ours is only their assembly. timm, whose vision
towers OpenVLA uses, needs torchvision, which has no CPU build for every platform; transformers has
the same two towers under other names, and `vit_state` renames. Weights are float32 torch tensors
under their original names.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from wmpo_jax.models.autoencoder_kl import AutoencoderKLConfig
from wmpo_jax.models.videomae import VideoMAEConfig
from wmpo_jax.models.vla import LlamaConfig, ViTConfig, VLAConfig

Weights = Mapping[str, Tensor]
Json = Mapping[str, Any]
# A torch module: what torch says of its attributes' types is too loose to be checked.
Module = Any

# timm's names inside a block -> those of transformers' DINOv2 and SigLIP; qkv is split besides.
DINO_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attn.proj": "attention.o_proj",
    "ls1.scale_factor": "layer_scale1.lambda1",
    "ls2.scale_factor": "layer_scale2.lambda1",
    "attn.qkv": "attention.{}_proj",
}
SIGLIP_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attn.proj": "self_attn.out_proj",
    "attn.qkv": "self_attn.{}_proj",
}


def under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}


def fill(module: Module, weights: Weights) -> Module:
    """Puts weights into a module, all of them and no others, and makes it ready for inference."""
    module.load_state_dict(dict(weights), strict=True)
    return module.eval().requires_grad_(False)


def dinov2(weights: Weights, config: ViTConfig) -> Module:
    """DINOv2 with registers, up to the block that the policy reads."""
    sizes = transformers.Dinov2WithRegistersConfig(
        hidden_size=config.width,
        num_hidden_layers=config.n_computed_blocks,
        num_attention_heads=config.heads,
        mlp_ratio=config.mlp_width // config.width,
        image_size=config.image_size,
        patch_size=config.patch,
        num_register_tokens=config.registers,
        layer_norm_eps=1e-6,
    )
    model: Module = transformers.Dinov2WithRegistersModel(sizes)
    model.layernorm = nn.Identity()
    pos_embed = weights["pos_embed"]
    return fill(
        model,
        {
            "embeddings.cls_token": weights["cls_token"],
            "embeddings.mask_token": torch.zeros(1, config.width),
            # timm's class token has no position; here it has one, of zeros.
            "embeddings.position_embeddings": torch.cat(
                [torch.zeros_like(pos_embed[:, :1]), pos_embed], 1
            ),
            "embeddings.register_tokens": weights["reg_token"],
            "embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
            "embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
        }
        | _blocks(weights, config, DINO_BLOCK, "encoder.layer"),
    )


def siglip(weights: Weights, config: ViTConfig) -> Module:
    """SigLIP's vision tower, up to the block that the policy reads."""
    sizes = transformers.SiglipVisionConfig(
        hidden_size=config.width,
        num_hidden_layers=config.n_computed_blocks,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        image_size=config.image_size,
        patch_size=config.patch,
        hidden_act="gelu",  # timm 0.9.10's exact one, not the tanh that transformers defaults to
        layer_norm_eps=1e-6,
        vision_use_head=False,
    )
    model: Module = transformers.SiglipVisionModel(sizes)
    model.post_layernorm = nn.Identity()
    return fill(
        model,
        {
            "embeddings.position_embedding.weight": weights["pos_embed"][0],
            "embeddings.patch_embedding.weight": weights["patch_embed.proj.weight"],
            "embeddings.patch_embedding.bias": weights["patch_embed.proj.bias"],
        }
        | _blocks(weights, config, SIGLIP_BLOCK, "encoder.layers"),
    )


def _blocks(
    weights: Weights, config: ViTConfig, names: Mapping[str, str], prefix: str
) -> dict[str, Tensor]:
    blocks = {}
    for i in range(config.n_computed_blocks):
        for name, tensor in under(weights, f"blocks.{i}.").items():
            layer, _, leaf = name.rpartition(".")
            if name in names:
                blocks[f"{prefix}.{i}.{names[name]}"] = tensor
            elif layer == "attn.qkv":
                for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                    blocks[f"{prefix}.{i}.{names[layer].format(part)}.{leaf}"] = rows
            else:
                blocks[f"{prefix}.{i}.{names[layer]}.{leaf}"] = tensor
    return blocks


def llama(weights: Weights, config: LlamaConfig) -> Module:
    """transformers' LlamaModel; its mask is the caller's business (see `full_mask`)."""
    sizes = transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
    return fill(transformers.LlamaModel(sizes), under(weights, "model."))


def full_mask(key_mask_BS: Tensor) -> Tensor:
    """bool [B, 1, S, S]: every token sees every token that is not padding."""
    return key_mask_BS[:, None, None, :].expand(-1, 1, key_mask_BS.shape[1], -1)


class Policy(nn.Module):
    """The policy without its sampling: towers, projector, Llama and the rows of its head."""

    def __init__(self, weights: Weights, config: VLAConfig) -> None:
        super().__init__()
        language = under(weights, "language_model.")
        begin = config.action_token_begin
        self.config = config
        self.dino = dinov2(under(weights, "vision_backbone.featurizer."), config.dino)
        self.siglip = siglip(under(weights, "vision_backbone.fused_featurizer."), config.siglip)
        linears = {}
        for name in ("fc1", "fc2", "fc3"):
            weight = weights[f"projector.{name}.weight"]
            linears[name] = nn.Linear(weight.shape[1], weight.shape[0])
        self.projector = fill(nn.ModuleDict(linears), under(weights, "projector."))
        self.decoder = llama(language, config.llama)
        head = language["lm_head.weight"][begin : begin + config.n_action_classes]
        self.head = nn.Parameter(head, requires_grad=False)

    def forward(self, pixels_BCHW: Tensor, prompt_BL: Tensor) -> Tensor:
        """Scores of the action classes [B, chunk * dims, classes], for unpadded prompts."""
        x_BSD = self.embeddings(pixels_BCHW, prompt_BL)
        mask = full_mask(torch.ones(x_BSD.shape[:2], dtype=torch.bool, device=x_BSD.device))
        hidden_BSD = self.decoder(inputs_embeds=x_BSD, attention_mask=mask).last_hidden_state
        slots = self.config.chunk * self.config.action_dim
        first = x_BSD.shape[1] - slots - 2  # the last token of the prompt
        return hidden_BSD[:, first : first + slots] @ self.head.T

    def embeddings(self, pixels_BCHW: Tensor, prompt_BL: Tensor) -> Tensor:
        """[BOS] [patches] [rest of the prompt] [zero vectors] [stop]."""
        config, gelu = self.config, nn.functional.gelu
        towers = [
            self.dino(pixels_BCHW[:, :3]).last_hidden_state[:, config.dino.n_prefix :],
            self.siglip(pixels_BCHW[:, 3:]).last_hidden_state,
        ]
        patches_BPD = self.projector["fc1"](torch.cat(towers, -1))
        patches_BPD = self.projector["fc3"](gelu(self.projector["fc2"](gelu(patches_BPD))))
        batch, slots = len(prompt_BL), config.chunk * config.action_dim
        embed = self.decoder.get_input_embeddings()
        words_BLD = embed(prompt_BL)
        zeros = words_BLD.new_zeros(batch, slots, config.llama.width)
        stop = embed(torch.full_like(prompt_BL[:, :1], config.stop_token))
        return torch.cat([words_BLD[:, :1], patches_BPD, words_BLD[:, 1:], zeros, stop], 1)


def policy_logits(
    weights: Weights, config: VLAConfig, pixels_BCHW: Tensor, prompt_BL: Tensor
) -> Tensor:
    """Scores of the action classes, float32 [B, chunk * dims, classes], for unpadded prompts."""
    return Policy(weights, config)(pixels_BCHW, prompt_BL)


def videomae(weights: Weights, config: VideoMAEConfig, original: Json | None = None) -> Module:
    """transformers' VideoMAEForVideoClassification.

    What `original`, a config.json, says has precedence over `config`, as in transformers.
    """
    sizes: dict[str, Any] = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_frames": config.num_frames,
        "tubelet_size": config.tubelet_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_size,
        "num_labels": config.num_labels,
    }
    known = transformers.VideoMAEConfig().to_dict().keys() - {"architectures"}
    sizes |= {key: value for key, value in (original or {}).items() if key in known}
    renamed = {
        name.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias"): tensor
        for name, tensor in weights.items()
    }
    model = transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**sizes))
    return fill(model, renamed)


def autoencoder(
    weights: Weights, config: AutoencoderKLConfig, original: Json | None = None
) -> Module:
    """diffusers' AutoencoderKL; what `original`, a config.json, says has precedence."""
    levels = len(config.block_out_channels)
    sizes: dict[str, Any] = {
        "block_out_channels": config.block_out_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_num_groups,
        "scaling_factor": config.scaling_factor,
        "mid_block_add_attention": config.mid_attention,
    }
    known = inspect.signature(AutoencoderKL.__init__).parameters
    sizes |= {key: value for key, value in (original or {}).items() if key in known}
    return fill(AutoencoderKL(**sizes), weights)
