"""What is stored beside weights (tokenizer, statistics): checked at import, and said if missing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wmpo_jax.conversion.documents import CONFIG, check_pointer, read_config, read_object
from wmpo_jax.conversion.sources import Source
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.models.vla import PromptTokenizer
from wmpo_jax.runtime.errors import UserError

STATISTICS, TOKENIZER = "dataset_statistics.json", "tokenizer.json"


def check(kind: str, source: Source, config: Any) -> list[str]:
    """Sentences about what is missing beside the weights or was left unread.

    Raises:
      UserError: a tokenizer or statistics that do not fit the policy.
    """
    notes = list(_policy(source, config)) if kind == "policy" else []
    if kind in ASSUMED and not read_config(source.folder):
        notes.append(f"No {CONFIG}: {ASSUMED[kind](config)}.")
    folder = source.weights.parent
    for name in ("adapter_model.safetensors", "adapter_model.bin", "lora_adapter"):
        if (folder / name).exists():
            notes.append(f"{name} was not read: what it holds must have been merged already.")
    return notes


ASSUMED = {
    "autoencoder": lambda config: (
        f"taken for SDXL's autoencoder, with scaling_factor {config.scaling_factor}"
    ),
    "reward": lambda config: (
        f"{config.num_heads} heads and {config.image_size} pixels are assumed, as in the released "
        "classifiers"
    ),
}


def _policy(source: Source, config: Any) -> Iterator[str]:
    folder = source.folder or source.weights.parent
    if (folder / TOKENIZER).exists():
        read_tokenizer(folder, config.llama.vocab_size)
    else:
        yield f"No {TOKENIZER}: the policy cannot be used without, put it into assets/."
    path = folder / STATISTICS
    entries = read_object(path) if path.exists() else read_config(folder).get("norm_stats") or {}
    _check_statistics(entries, path if path.exists() else folder / CONFIG, config.action_dim)
    if not entries:
        yield f"No {STATISTICS}: actions cannot be un-normalized without, put it into assets/."
    if not read_config(source.folder):
        yield f"No {CONFIG}: sizes of the released models are assumed where weights do not tell."
    if not any(folder.glob("modeling_*.py")):
        yield (
            "No modeling_*.py, so nothing tells plain OpenVLA from OpenVLA-OFT: only a policy that "
            "was fine-tuned with OFT's parallel decoding acts sensibly here."
        )


def read_tokenizer(folder: Path, rows: int) -> PromptTokenizer:
    """The tokenizer beside the weights of a policy that knows `rows` tokens.

    Raises:
      UserError: there is none, or it is damaged or another policy's.
    """
    path = folder / TOKENIZER
    if path.is_file():
        check_pointer(path)
    try:
        tokenizer = PromptTokenizer(path)
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise UserError(f"{path} is no tokenizer ({error}): copy or download it again.") from error
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{path} knows {tokenizer.vocab_size} tokens and the policy has {rows}: "
            "take the one that belongs to the weights."
        )
    return tokenizer


def check_width(statistics: ActionStatistics, action_dim: int, where: str) -> None:
    """UserError when a policy's actions have another length than the statistics describe."""
    if len(statistics.q01) != action_dim:
        raise UserError(
            f"{where} describes actions of {len(statistics.q01)} numbers, and those of the policy "
            f"have {action_dim}: take the file that belongs to the weights."
        )


def _check_statistics(entries: Any, path: Path, action_dim: int) -> None:
    """Every dataset's, since any may be chosen later."""
    if not isinstance(entries, Mapping):
        raise UserError(f"{path} has no object of action statistics: copy it again.")
    for name, entry in entries.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("action"), Mapping):
            around = "around it" if name == "action" else f"for '{name}'"
            raise UserError(
                f'{path} has no {{"dataset": {{"action": ...}}}} {around}: '
                "give the file that OpenVLA's training wrote."
            )
        statistics = ActionStatistics.from_json(entry["action"], f"{path}, {name},")
        check_width(statistics, action_dim, f"{path}, {name},")
