"""The rules of the house that no linter knows."""

import ast
import io
import re
import tokenize
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomli

from cpplug.host.catalog import Catalog
from cpplug.host.entries import DRIVERS, KINDS
from cpplug.host.modules import HOOK_NAMES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text())
GROUPS = {
    group.removeprefix("cpplug."): table
    for group, table in PROJECT["project"]["entry-points"].items()
    if group.startswith("cpplug.")
}
FOLDERS = {
    path.name
    for place in ("plugins", "instruments")
    for path in (ROOT / place).iterdir()
    if (path / "__init__.py").exists()
}
SOURCES = sorted(
    path
    for place in ("cpplug", "plugins", "instruments", "examples")
    for path in (ROOT / place).rglob("*.py")
    if "tests" not in path.parts
)
PLUGIN_SOURCES = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "cpplug"]


def name(path):
    return str(path.relative_to(ROOT))


def code_lines(path):
    """Count the lines that hold code: no blank lines, comments or docstrings."""
    text = path.read_text()
    skipped = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENCODING, tokenize.ENDMARKER,
    }  # fmt: skip
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for child in body if isinstance(body, list) else []:
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                lines -= set(range(child.lineno, child.end_lineno + 1))
    return len(lines)


def test_every_folder_is_a_plugin_and_every_plugin_a_folder():
    used = {
        value.partition(":")[0].partition(".")[0] for t in GROUPS.values() for value in t.values()
    }
    assert used == FOLDERS
    assert set(GROUPS) == set(KINDS)


def test_linter_knows_every_folder():
    linter = PROJECT["tool"]["importlinter"]
    assert set(linter["root_packages"]) == FOLDERS | {"cpplug"}
    contracts = {contract["name"]: contract for contract in linter["contracts"]}
    assert set(contracts["core never imports a plugin"]["forbidden_modules"]) == FOLDERS
    assert set(contracts["plugins see only cpplug.api"]["source_modules"]) == FOLDERS
    assert set(contracts["plugins do not know each other"]["modules"]) == FOLDERS


@pytest.mark.parametrize("kind", sorted(GROUPS))
def test_installed_entry_points_are_those_of_pyproject(kind):
    installed = {
        point.name: point.value
        for point in entry_points(group=f"cpplug.{kind}")
        if point.dist is None or point.dist.name == "cpplug"
    }
    assert installed == GROUPS[kind], "run make setup: the installed table is out of date"


def test_every_promise_is_kept():
    unfit = [row for row in Catalog().listing(check=True) if row.verdict != "ok"]
    assert unfit == []


def test_every_hook_has_a_test_of_its_name():
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tested = set(re.findall(r"^def test_hook_(\w+)\(", text, re.MULTILINE))
    assert {hook.removeprefix("cpplug_") for hook in HOOK_NAMES} <= tested


@pytest.mark.parametrize("path", PLUGIN_SOURCES, ids=name)
def test_plugin_modules_stay_short(path):
    assert code_lines(path) <= 200


def test_no_file_is_long():
    long = {name(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 500}
    assert long == {}


def test_only_the_catalog_uses_the_plugin_managers():
    users = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            if any(module.partition(".")[0] in {"pluggy", "stevedore"} for module in modules):
                users.add(name(path))
    assert users == {"cpplug/api/hooks.py", "cpplug/host/catalog.py"}


def test_core_knows_kinds_and_never_names():
    names = {n for kind, table in GROUPS.items() if kind not in DRIVERS for n in table}
    found = []
    for path in (ROOT / "cpplug").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
            elif isinstance(node, ast.MatchValue):
                parts = [node.value]
            else:
                continue
            found += [
                f"{name(path)}:{node.lineno} {part.value!r}"
                for part in parts
                if isinstance(part, ast.Constant) and part.value in names
            ]
    assert found == []


def test_modules_start_with_a_paragraph():
    silent = [
        name(path)
        for path in SOURCES
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    bad = [line for line in lines if line and not re.fullmatch(r"[A-Za-z0-9._-]+==[\w.+!]+", line)]
    assert bad == []
