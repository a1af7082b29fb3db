"""Looking things up must not pay for what computing needs."""

import os
import subprocess
import sys

import pytest

HEAVY = ("numpy", "astropy", "structlog", "sqlalchemy", "rich", "asyncio", "scipy", "numba", "lark")

PROGRAM = """
import sys
from cpplug.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
heavy = [name for name in {heavy!r} if name in sys.modules]
plugins = sorted(name for name in sys.modules if name.startswith("cpplug_"))
sys.stderr.write(f"CODE={{code}} HEAVY={{heavy}} PLUGINS={{plugins}}")
"""


def start(*words, **environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(heavy=HEAVY), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("plugins", "list"),
        ("plugins", "list", "--format", "json"),
        ("plugins", "--help"),
        ("completion", "bash"),
        ("no-such-command",),
    ],
    ids=" ".join,
)
def test_light(words):
    done = start(*words)
    assert "HEAVY=[] PLUGINS=[]" in done.stderr, done.stderr
    assert "CODE=2" in done.stderr if "no-such" in words[0] else "CODE=0" in done.stderr


def test_shell_completion_of_a_command_is_light():
    done = start(_CPPLUG_COMPLETE="bash_complete", COMP_WORDS="cpplug ver", COMP_CWORD="1")
    assert "verify" in done.stdout
    assert "HEAVY=[] PLUGINS=[]" in done.stderr


def test_importing_the_hook_marker_is_light():
    code = "import sys; from cpplug.api import hookimpl; from cpplug.api import testing; "
    code += f"print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
