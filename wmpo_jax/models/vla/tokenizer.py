"""The policy's text input: the prompt around an instruction, as token ids."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from wmpo_jax.runtime.errors import UserError

TINY_TOKENIZER = Path(__file__).parent / "tokenizer_tiny.json"
BOS = 1
# Llama-2's id of a lone space. In SFT the prompt is "Out: " followed by the action text, which
# leaves this token behind; a prompt that does not end with it gets it appended (reference:
# verl/workers/rollout/robwm_rollout.py:570 at 09f60b7).
LLAMA2_LONE_SPACE = 29_871


def prompt_text(instruction: str) -> str:
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


class PromptTokenizer:
    """Any Hugging Face `tokenizer.json` that has `<PAD>`; the default is the package's own.

    Attributes:
      pad: id that fills short prompts on the right.
      vocab_size: number of text tokens, added ones included.
    """

    def __init__(self, path: Path | str = TINY_TOKENIZER):
        if not Path(path).is_file():
            raise UserError(
                f"There is no tokenizer file at {path}; give the path of a tokenizer.json."
            )
        self._tokenizer = Tokenizer.from_file(str(path))
        pad = self._tokenizer.token_to_id("<PAD>")
        if pad is None:
            raise UserError(
                f"The tokenizer {path} has no <PAD> token; use the tokenizer.json of OpenVLA."
            )
        self.pad = pad
        self.vocab_size = self._tokenizer.get_vocab_size()

    def encode(self, instruction: str) -> list[int]:
        """Ids of one prompt, BOS first, for example `encode("press the pad")`."""
        text = prompt_text(instruction)
        ids = [BOS, *self._tokenizer.encode(text, add_special_tokens=False).ids]
        if self._speaks_llama2() and ids[-1] != LLAMA2_LONE_SPACE:
            ids.append(LLAMA2_LONE_SPACE)
        return ids

    def encode_batch(self, instructions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """prompt_BL int32, padded on the right to the longest, and prompt_length_B int32."""
        prompts = [self.encode(instruction) for instruction in instructions]
        length_B = np.array([len(prompt) for prompt in prompts], np.int32)
        prompt_BL = np.full((len(prompts), length_B.max()), self.pad, np.int32)
        for row, prompt in zip(prompt_BL, prompts, strict=True):
            row[: len(prompt)] = prompt
        return prompt_BL, length_B

    def _speaks_llama2(self) -> bool:
        return self._tokenizer.id_to_token(LLAMA2_LONE_SPACE) == "▁"
