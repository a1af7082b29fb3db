"""Commands in this process, and repositories of simcam that are simulated once and copied."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from astropy.io import fits

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

    def __call__(self, *words, code: int | None = 0) -> Answer:
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


@pytest.fixture(name="call", scope="session")
def _call():
    return call


@pytest.fixture(name="shell_of")
def _shell_of():
    return _copy


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


# ---- the toy camera of the engine's tests, whose step misbehaves on order ------------------
def _toy_module():
    path = Path(__file__).parents[1] / "engine" / "conftest.py"
    spec = importlib.util.spec_from_file_location("toy_world_for_cli", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ToyShell(Shell):
    """Commands on a repository of the toy camera, in this process or in one that may die."""

    def __init__(self, folder: Path, n: int = 6) -> None:
        super().__init__(folder)
        self.toy = _toy_module().ToyWorld(folder)
        self.ids = self.toy.fill(n)
        self.started: list[subprocess.Popen] = []
        self.common = ["--plugin", str(self.toy.plugin)]
        assert call("init", self.repo).code == 0
        self("ingest", self.raw, "--instrument", "toy", "-t", "direct")

    def __call__(self, *words, code: int | None = 0) -> Answer:
        return super().__call__(*self.common, *words, code=code)

    def build(self, *words, code: int | None = 0) -> Answer:
        return self("run", "toymean", "--instrument", "toy", *words, code=code)

    def start(self, *words, **how) -> subprocess.Popen:
        """Start a build in a process group of its own."""
        command = [sys.executable, "-m", "cpplug", *self.common, "-b", str(self.repo)]
        command += ["run", "toymean", "--instrument", "toy", *words]
        process = subprocess.Popen(
            command, start_new_session=True, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, **how,
        )  # fmt: skip
        self.started.append(process)
        return process

    def stop(self) -> None:
        """Kill what is still running of what this shell started."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def done_marks(self) -> int:
        return sum(1 for _ in self.repo.glob("runs/**/scratch/**/*.done.npz"))

    def pixels(self, collection: str):
        words = ("query", "products", "-i", collection, "--format", "json")
        (product,) = self(*words).rows
        with fits.open(product["path"]) as hdus:
            return [hdu.data.tobytes() for hdu in hdus[1:]]


@pytest.fixture
def toys(tmp_path) -> ToyShell:
    shell = ToyShell(tmp_path)
    yield shell
    shell.stop()


def wait_for(condition, seconds: float = 30.0) -> None:
    """Wait until something is true; fail when it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(name="wait_for")
def _wait_for():
    return wait_for
