"""Looks at datasets and rewrites them in another format (docs/data.md).

    python -m wmpo_jax.data inspect PATH --sheet=sheet.png
    python -m wmpo_jax.data convert PATH TARGET --format=lerobot
    python -m wmpo_jax.data openx FOLDER mixture.json

Exit status: 0 done, 2 the user can correct it.
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.errors import UserError

FORMATS = ("webdataset", "hdf5", "lerobot", "rlds", "rlds_tfrecord")


def main(argv: Sequence[str]) -> int:
    """Runs `argv` (flags without the program's name); returns the exit status."""
    try:
        run(_parser().parse_args(argv))
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wmpo_jax.data", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="a table, a contact sheet, suspicious episodes")
    inspect.add_argument("--sheet", type=Path, help="PNG; default <dataset's name>.png, here")
    inspect.add_argument(
        "--chunk", type=_positive, default=8, help="actions per chunk: shorter episodes are counted"
    )
    convert = commands.add_parser("convert", help="the same episodes in another format")
    for command in (inspect, convert):
        command.add_argument("path", help="the dataset")
        command.add_argument("--camera", default="", help="its camera; default one from outside")
        command.add_argument("--instruction", default="", help="for episodes that have none")
        command.add_argument("--rotate", action="store_true", help="turn frames by 180 degrees")
        command.add_argument("--recipe", default="", help="Open X-Embodiment's name of the dataset")
        command.add_argument("--split", default="", help="of an HDF5 file or an RLDS dataset")
    convert.add_argument("target", type=Path, help="the new folder or file")
    convert.add_argument("--format", choices=FORMATS, required=True)
    convert.add_argument("--on-bad", choices=("refuse", "skip"), default="refuse")
    openx = commands.add_parser("openx", help="write OpenVLA's mixture of what is in a folder")
    openx.add_argument("path", type=Path, help="where the datasets are under their TFDS names")
    openx.add_argument("target", type=Path, help="the mixture's .json")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run(flags: argparse.Namespace) -> None:
    environment.prepare()
    # Only now may JAX be imported: it reads the environment while it starts.
    from wmpo_jax.data import dataset, episodes, formats, inspection, mixture
    from wmpo_jax.runtime.files import save_json

    interrupts.raise_from_now_on()
    if flags.command == "openx":
        content = mixture.magic_soup(flags.path.resolve())
        if not content["datasets"]:
            raise UserError(f"{flags.path} has no folder named as a dataset of Open X-Embodiment.")
        save_json(flags.target, content)
        print(f"{flags.target} lists {len(content['datasets'])} datasets")
        return
    options = episodes.ReadOptions(
        camera=flags.camera,
        instruction=flags.instruction,
        rotate=flags.rotate,
        recipe=flags.recipe,
        raw_gripper=bool(flags.recipe),
        split=flags.split,
    )
    if flags.command == "inspect":
        # The inspection itself decodes every frame.
        found = dataset.open_dataset(flags.path, options, on_bad="skip", verify="none")
        sheet = flags.sheet or Path(f"{found.name.replace('/', '_')}.png")
        print(inspection.inspect(found, sheet, flags.chunk))
        return
    found = dataset.open_dataset(flags.path, options, on_bad=flags.on_bad)
    first = found.source.info(found.episodes[0].index)
    if flags.format == "lerobot" and not first.fps_known:
        print(f"{flags.path} does not say its frame rate: {first.fps:g} per second are written")
    whole = (episodes.read_episode(found.source, entry.index) for entry in found.episodes)
    count = formats.WRITERS[flags.format](flags.target, whole)
    print(f"{flags.target} holds {count} episodes")


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
