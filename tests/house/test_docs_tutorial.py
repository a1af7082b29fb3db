"""Tutorial and how-to pages are true: every command in them runs and answers as shown.

Code blocks that begin with ``# file: NAME`` are written into the folder first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    page
    for folder in ("tutorials", "how-to")
    for page in sorted((ROOT / "docs" / folder).glob("*.md"))
    if "```console" in page.read_text(encoding="utf-8")
]
MARK = "@@end-of-command@@"


@dataclass
class Command:
    """A line that is typed, and the lines that are shown below it."""

    text: str
    shown: list[str] = field(default_factory=list)


def commands_of(page: str) -> list[Command]:
    """Return the commands of a page's console blocks, in order."""
    found: list[Command] = []
    for block in re.findall(r"^```console\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command(line.removeprefix("$ ")))
            elif line.strip():
                found[-1].shown.append(line)
    return found


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page shows, by name."""
    blocks = re.findall(r"^```\w+\n# file: (\S+)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    return dict(blocks)


def run_all(commands: list[Command], folder: Path) -> list[str]:
    """Type all commands into one shell; return what each one printed."""
    script = "".join(f"{c.text}\n(rc=$?; echo {MARK}; exit $rc)\n" for c in commands)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "COLUMNS": "200",
    }
    for name in [name for name in environment if name.startswith("CPPLUG_")]:
        del environment[name]
    shell = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    parts = shell.stdout.split(f"{MARK}\n")
    assert len(parts) == len(commands) + 1, shell.stdout[-3000:]
    return parts[:-1]


def same(shown: str, printed: str) -> bool:
    """Tell whether a printed line is the shown one; ``...`` stands for anything."""
    pieces = re.split(r"\s*(?<!\.)\.\.\.(?!\.)\s*", shown.strip())
    pattern = ".*".join(re.escape(" ".join(piece.split())) for piece in pieces)
    return re.fullmatch(pattern, " ".join(printed.split())) is not None


def missing_lines(command: Command, printed: str) -> list[str]:
    """Return the shown lines that were not printed, in this order."""
    rest = iter(printed.splitlines())
    missing = []
    for shown in command.shown:
        if shown.strip() != "..." and not any(same(shown, line) for line in rest):
            missing.append(shown)
            rest = iter(printed.splitlines())
    return missing


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name, content in files_of(text).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    commands = commands_of(text)
    assert commands
    printed = run_all(commands, tmp_path)
    wrong = {
        command.text: (missing, answer[-2000:])
        for command, answer in zip(commands, printed, strict=True)
        if (missing := missing_lines(command, answer))
    }
    assert not wrong


def test_reader_of_commands() -> None:
    page = "```console\n$ one\nsays 1\n$ two ...\n```\ntext\n```console\n$ three\n```\n"
    assert commands_of(page) == [Command("one", ["says 1"]), Command("two ..."), Command("three")]


def test_exit_code_reaches_the_next_command(tmp_path: Path) -> None:
    printed = run_all([Command("(exit 3)"), Command("echo $?")], tmp_path)
    assert printed == ["", "3\n"]


@pytest.mark.parametrize(
    ("shown", "line", "equal"),
    [
        ("run 1 product in ... s", "run  1 product in 2.3 s", True),
        ("... run done", "12:00:01 run done", True),
        ("bias PASS ...", "bias  PASS   16", True),
        ("bias PASS ...", "bias  FAIL   16", False),
        ("may be. ...", "may be. [strict]", True),
        ("30 ingested", "30 ingested, 1 skipped", False),
    ],
)
def test_dots_stand_for_anything(shown: str, line: str, equal: bool) -> None:
    assert same(shown, line) is equal
