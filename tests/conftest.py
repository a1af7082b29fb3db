"""Distributions made on the spot, as pip would leave them. No property is tested by the clock."""

import sys
from textwrap import dedent

import pytest
from hypothesis import settings
from stevedore import ExtensionManager, _cache

# The first example may have to compile a kernel.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

STEP = """
from cpplug.api import IsrStep, hookimpl

def apply(frame, config, calibs):
    return frame

@hookimpl
def cpplug_isr_steps():
    yield IsrStep(name="{name}", summary="Does nothing", level="detector", apply=apply)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install("mypkg", code, {"cpplug.isr_step": {"x": "mypkg"}})`` installs a distribution."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(_cache._c, "_dir", str(tmp_path / "cache"))
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    before = set(sys.modules)

    def make(package, code, entry_points, version="1.2"):
        folder = site / package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text(dedent(code))
        info = site / f"{package}_dist-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}-dist\nVersion: {version}\n"
        )
        lines = []
        for group, entries in entry_points.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        return folder

    yield make
    for name in set(sys.modules) - before:
        if name.startswith(("t_", "cpplug_file_")):
            del sys.modules[name]


@pytest.fixture
def step_code():
    """Code of a module that offers one ISR step."""
    return lambda name: STEP.format(name=name)
