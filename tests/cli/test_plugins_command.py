"""``cpplug plugins``, the global options, and how errors end."""

import csv
import io
import json

import click
import pytest

from cpplug.api import CpplugError, RepositoryError
from cpplug.cli import lazy
from cpplug.cli.lazy import hyphens
from cpplug.cli.main import main


@pytest.fixture
def run(capsys):
    """Run a command line; return exit code, stdout, stderr."""

    def call(*words):
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return call


@pytest.fixture
def command(monkeypatch):
    """Put a function behind the name ``probe`` in the table of commands."""

    def put(function):
        import sys
        import types

        module = types.ModuleType("probe_module")
        module.probe = function
        monkeypatch.setitem(sys.modules, "probe_module", module)
        monkeypatch.setitem(lazy.TABLE, "probe", ("probe_module:probe", "Probe."))

    return put


def test_list_shows_each_entry_point_with_provider(run):
    code, out, _ = run("plugins", "list", "--format", "json")
    rows = {(row["kind"], row["name"]): row for row in json.loads(out)}
    assert code == 0
    assert rows["calibration", "bias"]["provider"] == "cpplug"
    assert rows["calibration", "bias"]["version"]
    assert rows["instrument", "LATISS"]["module"] == "cpplug_latiss"
    assert {row["verdict"] for row in rows.values()} == {"unchecked"}


def test_list_formats_agree(run):
    as_json = json.loads(run("plugins", "list", "--kind", "combiner", "--format", "json")[1])
    lines = run("plugins", "list", "--kind", "combiner", "--format", "jsonl")[1].splitlines()
    assert [json.loads(line) for line in lines] == as_json
    table = csv.DictReader(
        io.StringIO(run("plugins", "list", "--kind", "combiner", "--format", "csv")[1])
    )
    assert [row["name"] for row in table] == [row["name"] for row in as_json]
    ids = run("plugins", "list", "--kind", "combiner", "--format", "ids")[1].split()
    assert ids == [row["name"] for row in as_json]
    plain = run("plugins", "list", "--kind", "combiner")[1]
    assert plain.splitlines()[0].split() == [
        "kind", "name", "module", "provider", "version", "verdict"
    ]  # fmt: skip


def test_check_loads_and_judges(run):
    code, out, _ = run("plugins", "list", "--check", "--kind", "combiner", "--format", "json")
    assert code == 0
    assert {row["verdict"] for row in json.loads(out)} == {"ok"}


def test_each_misfit_gets_its_own_verdict_and_hurts_nobody_else(run, install, step_code):
    install("t_good", step_code("good"), {"cpplug.isr_step": {"good": "t_good"}})
    install("t_broken", "import no_such_module", {"cpplug.isr_step": {"broken": "t_broken"}})
    install("t_lying", "x = 1", {"cpplug.isr_step": {"lying": "t_lying"}})
    install("t_new", "CPPLUG_API = 7", {"cpplug.isr_step": {"incompatible": "t_new"}})
    install("t_gone", "1/0", {"cpplug.isr_step": {"blocked": "t_gone"}})
    for package in ("t_one", "t_two"):
        install(package, step_code("duplicate"), {"cpplug.isr_step": {"duplicate": package}})
    words = ("--no-plugin", "t_gone", "plugins", "list", "--kind", "isr_step", "--format", "json")
    code, out, _ = run(*words, "--check")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 8
    for name in ("broken", "lying", "incompatible", "blocked", "duplicate"):
        assert rows[name]["verdict"] == name
        assert rows[name]["detail"]
    assert rows["good"]["verdict"] == rows["overscan"]["verdict"] == "ok"
    static = {row["name"]: row["verdict"] for row in json.loads(run(*words)[1])}
    assert static["blocked"] == "blocked" and static["duplicate"] == "duplicate"
    assert static["broken"] == static["good"] == "unchecked"
    assert run("plugins", "show", "good")[0] == 0
    code, _, err = run("plugins", "show", "broken")
    assert (code, "cpplug --no-plugin t_broken" in err) == (8, True)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_no_plugin_is_accepted_before_and_behind_the_command(run, place):
    option = ("--no_plugin", "cpplug_combine")
    words = ("plugins", "list", "--kind", "combiner", "--format", "json")
    code, out, _ = run(*option, *words) if place == "before" else run(*words, *option)
    assert code == 0
    assert {row["verdict"] for row in json.loads(out)} == {"blocked"}


def test_no_plugin_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("CPPLUG_NO_PLUGIN", "cpplug_combine,not_there")
    out = run("plugins", "list", "--kind", "combiner", "--format", "json")[1]
    assert {row["verdict"] for row in json.loads(out)} == {"blocked"}


def test_no_plugin_that_names_nothing_is_an_error(run):
    code, _, err = run("--no-plugin", "cpplug_combin", "plugins", "list")
    assert code == 2
    assert "names no installed plugin" in err


def test_show(run):
    code, out, _ = run("plugins", "show", "clipped_mean")
    assert code == 0
    assert "cpplug_combiners" in out
    assert "option    clip = 3.0  [number (> 0)] half width of the clip, sigma" in out
    page = json.loads(run("plugins", "show", "overscan", "--format", "json")[1])
    assert page["kind"] == "isr_step"
    assert "bias" in page["used_by"]
    code, _, err = run("plugins", "show", "clipped_meann")
    assert (code, "Did you mean 'clipped_mean'" in err) == (2, True)


def test_plugin_file_option(run, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from cpplug.api import Combiner, hookimpl\n"
        "@hookimpl\ndef cpplug_combiners():\n"
        "    yield Combiner(name='mine', summary='My own', combine=lambda block, config: None)\n"
    )
    code, out, _ = run("--plugin", file, "plugins", "show", "mine", "--format", "json")
    assert code == 0
    assert json.loads(out)["version"].startswith("sha256:")
    file.write_text("1/0\n")
    code, _, err = run("--plugin", file, "plugins", "list")
    assert code == 8
    assert "ZeroDivisionError" in err


def test_new_refuses_what_exists_and_bad_names(run, tmp_path):
    assert run("plugins", "new", "combiner", "trim", "-o", tmp_path)[0] == 0
    code, _, err = run("plugins", "new", "combiner", "trim", "-o", tmp_path)
    assert (code, "exists already" in err) == (2, True)
    code, _, err = run("plugins", "new", "combiner", "../trim", "-o", tmp_path)
    assert (code, "cannot be the name" in err) == (2, True)


def test_mistyped_command_and_option(run):
    code, _, err = run("plugin", "list")
    assert (code, "Did you mean 'plugins'" in err) == (2, True)
    code, _, err = run("plugins", "list", "--formt", "json")
    assert (code, "--format" in err) == (2, True)


def test_cpplug_errors_have_their_exit_code_and_next_step(run, command):
    @click.command()
    def probe():
        raise RepositoryError("The repository is locked.", "Wait, then try again.")

    command(probe)
    code, out, err = run("probe")
    assert (code, out) == (9, "")
    assert err.splitlines() == [
        "cpplug: The repository is locked.",
        "        Wait, then try again.",
    ]
    assert "Traceback" in run("--debug", "probe")[2]
    assert "Traceback" in run("probe", "--debug")[2]


@pytest.mark.parametrize("cls", CpplugError.__subclasses__())
def test_every_error_class_ends_with_its_code(run, command, cls):
    @click.command()
    def probe():
        raise cls("What is wrong.", "What to do.")

    command(probe)
    assert run("probe")[0] == cls.exit_code


def test_unknown_exception_is_one_sentence(run, command):
    @click.command()
    def probe():
        raise KeyError("x")

    command(probe)
    code, _, err = run("probe")
    assert code == 1
    assert "A fault in cpplug: KeyError" in err and "--debug" in err
    assert "Traceback" not in err


def test_interrupted(run, command):
    @click.command()
    def probe():
        raise KeyboardInterrupt

    command(probe)
    code, _, err = run("probe")
    assert (code, "interrupted" in err) == (130, True)


def test_returned_integer_is_the_exit_code(run, command):
    @click.command()
    def probe():
        return 4

    command(probe)
    assert run("probe")[0] == 4


def test_underscores_in_option_names_only(run, command):
    seen = {}

    @click.command()
    @click.option("--begin-date")
    @click.option("--kind", type=click.Choice(["isr_step", "x"]))
    @click.argument("rest", nargs=-1)
    def probe(**values):
        seen.update(values)

    command(probe)
    words = ("--begin_date=2021_01", "--kind", "isr_step", "a_b", "--", "--c_d")
    assert run("probe", *words)[0] == 0
    assert seen == {"begin_date": "2021_01", "kind": "isr_step", "rest": ("a_b", "--c_d")}
    assert hyphens(["--a_b=c_d", "x_y", "--", "--e_f"]) == ["--a-b=c_d", "x_y", "--", "--e_f"]


def test_command_keeps_its_own_option_of_the_same_name(run, command):
    seen = {}

    @click.command()
    @click.option("--with", "switched", multiple=True)
    @click.pass_obj
    def probe(state, switched):
        seen.update(own=switched, state=state.with_, long=state.long_log)

    command(probe)
    assert run("--with", "log", "probe", "--with", "stars", "--long-log")[0] == 0
    assert seen == {"own": ("stars",), "state": ("log",), "long": True}


def test_repository_must_be_named(run, command, monkeypatch):
    monkeypatch.delenv("CPPLUG_REPO", raising=False)

    @click.command()
    @click.pass_obj
    def probe(state):
        with state.repository():
            pass

    command(probe)
    code, _, err = run("probe")
    assert (code, "-b REPO" in err) == (2, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(run, shell):
    code, out, _ = run("completion", shell)
    assert code == 0
    assert "_CPPLUG_COMPLETE" in out
