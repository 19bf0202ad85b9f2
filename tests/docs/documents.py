"""Reads the blocks of a Markdown page: fenced Python, and commands set off by four spaces."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMAND = re.compile(r"^    (?P<command>(?:bash|python|pip|\.venv/bin/\S+) .*)$", re.MULTILINE)
FENCE = re.compile(
    r"(?:<!-- not executed: (?P<why>.+?) -->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block; `why` it is not executed, or None."""

    kind: str
    code: str
    line: int
    why: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(m["kind"], m["code"], text.count("\n", 0, m.start("code")), m["why"])
        for m in FENCE.finditer(text)
    ]


def commands(page: Path) -> list[str]:
    """Single commands; a line that joins two with && counts as two, one that ends in \\ goes on."""
    text = FENCE.sub("", page.read_text()).replace("\\\n", " ")
    lines = [m["command"].partition("  #")[0].strip() for m in COMMAND.finditer(text)]
    return [command for line in lines for command in line.split(" && ")]
