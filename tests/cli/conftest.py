"""Commands in this process, and repositories of simcam that are simulated once and copied."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cpplug.cli.main import _run
from cpplug.cli.state import State

FIRST = 2021012000001


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self):
        """The rows of ``--format json``."""
        return json.loads(self.out)

    @property
    def said(self) -> list[str]:
        """The lines of the error: what is wrong, and what to do."""
        lines = self.err.splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("cpplug: ")]
        assert len(starts) == 1, self.err
        return lines[starts[0] :]


def call(*words) -> Answer:
    """Run one command line in this process."""
    texts = [str(word) for word in words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run(texts, State(command_line=["cpplug", *texts]))
    return Answer(code, out.getvalue(), err.getvalue())


class Shell:
    """Commands on one repository; an unexpected exit code fails the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = folder / "repo"
        self.raw = folder / "raw"

    def __call__(self, *words, code: int = 0) -> Answer:
        answer = call("-b", self.repo, *words)
        assert code is None or answer.code == code, (
            f"exit code {answer.code}\n{answer.out}\n{answer.err}"
        )
        assert "Traceback" not in answer.err
        return answer

    def refuses(self, code: int, *words) -> str:
        """Run a command that must fail with one sentence and a next step; return both, joined."""
        answer = self(*words, code=code)
        lines = answer.said
        assert lines[-1].rstrip()[-1] in ".?:'\"", lines
        assert len(lines) >= 2, f"no next step: {lines}"
        return " ".join(line.strip() for line in lines)

    def products(self, kind: str = "bias"):
        return self("query", "products", kind, "--format", "json").rows

    def runs(self):
        return self("query", "runs", "--format", "json").rows

    def events(self, run: str):
        path = self.repo / "runs" / run / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    """Commands start in an empty folder, as one user, with nothing inherited."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "me")
    for name in ("CPPLUG_REPO", "CPPLUG_NO_PLUGIN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def simcam_frames(tmp_path_factory) -> Path:
    """26 simulated bias frames of simcam, without their truth."""
    folder = tmp_path_factory.mktemp("simcam") / "raw"
    answer = call(
        "simulate", "bias", "--instrument", "simcam", "--count", 26, "--first-exposure", FIRST,
        "--seed", 1, "-o", folder,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    shutil.rmtree(folder / "truth")
    return folder


@pytest.fixture(scope="session")
def ready_repo(simcam_frames, tmp_path_factory) -> Path:
    """A repository in which the 26 frames are registered where they lie."""
    repo = tmp_path_factory.mktemp("ready") / "repo"
    for words in (["init", repo], ["-b", repo, "ingest", simcam_frames, "-t", "direct"]):
        assert call(*words).code == 0
    return repo


@pytest.fixture(scope="session")
def built_repo(ready_repo, tmp_path_factory) -> Path:
    """The same, with a bias of the first 20 frames that passed its verification."""
    repo = tmp_path_factory.mktemp("built") / "repo"
    shutil.copytree(ready_repo, repo)
    for words in (
        ["run", "bias", "-d", "seq_num <= 20", "-o", "u/me/biasGen"],
        ["verify", "bias", "-i", "u/me/biasGen,simcam/raw/all", "-o", "u/me/verifyBias"],
    ):
        answer = call("-b", repo, *words, "--instrument", "simcam")
        assert answer.code == 0, answer.err + answer.out
    return repo


@pytest.fixture
def empty(tmp_path, simcam_frames) -> Shell:
    """A new repository, and five frames of its own in ``raw`` beside it."""
    shell = Shell(tmp_path)
    shell.raw.mkdir()
    for path in sorted(simcam_frames.glob("*.fits"))[:5]:
        shutil.copyfile(path, shell.raw / path.name)
    assert call("init", shell.repo).code == 0
    return shell


def _copy(template: Path, folder: Path) -> Shell:
    shutil.copytree(template, folder / "repo", symlinks=True)
    return Shell(folder)


@pytest.fixture
def ready(ready_repo, tmp_path) -> Shell:
    return _copy(ready_repo, tmp_path)


@pytest.fixture
def built(built_repo, tmp_path) -> Shell:
    return _copy(built_repo, tmp_path)
