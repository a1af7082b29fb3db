"""What ``plugins new`` writes lints, imports, and passes its own test."""

import os
import subprocess
import sys

import pytest
import tomli

from cpplug.host.scaffold import SUMMARIES, write

KINDS = sorted(SUMMARIES)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One distribution of each kind."""
    folder = tmp_path_factory.mktemp("made")
    return {kind: write(kind, f"my_{kind}", folder) for kind in KINDS}


def run(*words, cwd, **environment):
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_lint_and_are_formatted(made):
    folder = made["listener"].parent
    run("ruff", "check", ".", cwd=folder)
    run("ruff", "format", "--check", ".", cwd=folder)


def test_their_own_tests_pass(made):
    folder = made["listener"].parent
    paths = os.pathsep.join(str(path) for path in made.values())
    config = made["listener"] / "pyproject.toml"
    out = run(
        "pytest", "-q", "-p", "no:cacheprovider", "-c", str(config), "--import-mode=importlib",
        *(str(path / "tests") for path in made.values()),
        cwd=folder, PYTHONPATH=paths,
    )  # fmt: skip
    assert "passed" in out


@pytest.mark.parametrize("kind", KINDS)
def test_entry_point_names_the_module(made, kind):
    project = tomli.loads((made[kind] / "pyproject.toml").read_text())
    table = project["project"]["entry-points"][f"cpplug.{kind}"]
    assert table == {f"my_{kind}": f"cpplug_my_{kind}"}
    assert (made[kind] / f"cpplug_my_{kind}" / "__init__.py").is_file()


@pytest.mark.parametrize("name", ["NightCam", "bias.my-check", "x"])
def test_names_of_all_sorts(tmp_path, name):
    folder = write("verifier", name, tmp_path)
    module = next(folder.glob("cpplug_*/__init__.py"))
    compile(module.read_text(), str(module), "exec")
    assert f'name="{name}"' in module.read_text()
