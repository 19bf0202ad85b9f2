"""Makes tokenizer_tiny.json: `python -m wmpo_jax.models.vla.make_tokenizer`.

A SentencePiece-style BPE like Llama-2's (BOS 1, EOS 2, "▁" for spaces, byte fallback for whatever
it has not seen), trained on the sentences of a table top. What stands before and after the
instruction is one piece each: it never changes, and on a CPU every token of the sequence costs.
"""

import itertools
import json
import re

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from wmpo_jax.models.vla.config import TINY_TEXT_TOKENS
from wmpo_jax.models.vla.tokenizer import TINY_TOKENIZER, prompt_text

SPECIAL = ("<unk>", "<s>", "</s>", "<PAD>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "purple", "orange")
THINGS = (
    "block",
    "cube",
    "pad",
    "zone",
    "peg",
    "hole",
    "ring",
    "cup",
    "drawer",
    "button",
    "bowl",
    "plate",
    "ball",
    "box",
    "lid",
)
ACTIONS = (
    "press",
    "push",
    "lift",
    "grasp",
    "turn",
    "open",
    "close",
    "touch",
    "pull",
    "move",
    "pick",
    "slide",
    "reach",
)
RELATIONS = (
    "on",
    "on top of",
    "in",
    "into",
    "onto",
    "to",
    "under",
    "behind",
    "beside",
    "left of",
    "right of",
    "through",
)
TWO_THINGS = ("push", "stack", "put", "insert", "place", "move")


def sentences() -> list[str]:
    """All short instructions over the vocabulary, colored and plain."""
    objects = [*THINGS, *(f"{color} {thing}" for color in COLOURS for thing in THINGS)]
    one = [f"{verb} the {thing}" for verb in ACTIONS for thing in objects]
    two = [
        f"{verb} the {first} {relation} the {second}"
        for verb, relation, first, second in itertools.product(
            TWO_THINGS, RELATIONS, THINGS, THINGS
        )
    ]
    return [*one, *two, "pick up the block and put it down", "insert the square into the stick"]


def make_tokenizer() -> Tokenizer:
    n_learned = TINY_TEXT_TOKENS - len(SPECIAL) - len(BYTES)
    learner = _with_text_rules(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(vocab_size=n_learned, show_progress=False)
    learner.train_from_iterator(map(prompt_text, sentences()), trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    vocabulary = {piece: i for i, piece in enumerate((*SPECIAL, *BYTES, *pieces))}
    model = models.BPE(
        vocab=vocabulary,
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = _with_text_rules(Tokenizer(model))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _with_text_rules(tokenizer: Tokenizer) -> Tokenizer:
    """Llama's spaces, and cuts that no piece may cross."""
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    before, after = (" " + prompt_text("\0")).replace(" ", "▁").split("▁\0")
    cuts = Regex(f"{re.escape(before)}|{re.escape(after)}|▁[^▁?]*")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(cuts, "isolated")
    return tokenizer


if __name__ == "__main__":
    make_tokenizer().save(str(TINY_TOKENIZER))
