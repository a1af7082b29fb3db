"""The reference pages and the hook snapshot say what the code says."""

import importlib.util
from pathlib import Path

import pytest

from cpplug.host.modules import HOOK_NAMES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.docs
@pytest.mark.parametrize("page", ["hooks", "events", "cli", "exit-codes"])
def test_page_is_up_to_date(generate, page):
    written = (ROOT / "docs" / "reference" / f"{page}.md").read_text()
    assert written == generate.page(page), f"run python docs/generate.py {page}"


def test_hooks_are_as_plugins_know_them(generate):
    """A change needs thought: does API_VERSION rise? Then python docs/generate.py snapshot."""
    assert (ROOT / "tests" / "api" / "hooks.snapshot").read_text() == generate.snapshot()


@pytest.mark.docs
@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_every_hook_has_a_heading_with_its_signature(generate, hook):
    lines = (ROOT / "docs" / "reference" / "hooks.md").read_text().splitlines()
    assert f"## `{generate.signature(hook)}`" in lines
