"""One plugin at a time, by name; a broken one hurts only who asked for it."""

import multiprocessing
import sys
import types

import pytest

from cpplug.api import PluginError, UnknownNameError
from cpplug.host.catalog import Catalog
from cpplug.host.entries import first_sentence, names_blocked


def verdict_of(catalog, name, *, check=True, kind="isr_step"):
    rows = [r for r in catalog.listing(check) if (r.kind, r.name) == (kind, name)]
    return {row.verdict for row in rows}


def test_listing_imports_nothing(install):
    install("t_boom", "raise RuntimeError('imported')", {"cpplug.isr_step": {"boom": "t_boom"}})
    catalog = Catalog()
    assert "boom" in catalog.names("isr_step")
    assert verdict_of(catalog, "boom", check=False) == {"unchecked"}
    row = next(r for r in catalog.listing() if r.name == "boom")
    assert (row.provider, row.version, row.module) == ("t_boom-dist", "1.2", "t_boom")
    assert "t_boom" not in sys.modules


def test_good_plugin(install, step_code):
    install("t_good", step_code("good"), {"cpplug.isr_step": {"good": "t_good"}})
    catalog = Catalog()
    record = catalog.get("isr_step", "good")
    assert record.name == "good"
    assert catalog.get("isr_step", "good") is record
    assert catalog.provider("isr_step", "good") == "t_good-dist 1.2"
    assert catalog.used() == {"isr_step:good": "t_good-dist 1.2"}
    assert verdict_of(catalog, "good") == {"ok"}
    assert catalog.hooks_of("isr_step", "good") == ["cpplug_isr_steps"]


@pytest.mark.parametrize(
    "failure", ["import no_such_module", "raise SystemExit(3)", "assert False, 'no'", "1 / 0"]
)
def test_broken_import_is_one_sentence(install, step_code, failure):
    install("t_bad", failure, {"cpplug.isr_step": {"bad": "t_bad"}})
    install("t_good", step_code("good"), {"cpplug.isr_step": {"good": "t_good"}})
    catalog = Catalog()
    with pytest.raises(PluginError, match=r"'bad' of t_bad-dist 1.2 cannot be imported") as caught:
        catalog.get("isr_step", "bad")
    assert "cpplug --no-plugin t_bad" in caught.value.next_step
    assert caught.value.exit_code == 8
    assert verdict_of(catalog, "bad") == {"broken"}
    assert catalog.get("isr_step", "good").name == "good"


def test_lying_plugin(install, step_code):
    install("t_lie", step_code("other"), {"cpplug.isr_step": {"promised": "t_lie"}})
    catalog = Catalog()
    with pytest.raises(PluginError, match="registered as ISR step 'promised' but provides none"):
        catalog.get("isr_step", "promised")
    assert verdict_of(catalog, "promised") == {"lying"}
    assert verdict_of(catalog, "other") == {"unlisted"}
    with pytest.raises(UnknownNameError):
        catalog.get("isr_step", "other")


def test_incompatible_plugin(install, step_code):
    code = "CPPLUG_API = 99\n" + step_code("new")
    install("t_new", code, {"cpplug.isr_step": {"new": "t_new"}})
    catalog = Catalog()
    with pytest.raises(PluginError, match=r"plugin API 99, this cpplug has API 1"):
        catalog.get("isr_step", "new")
    assert verdict_of(catalog, "new") == {"incompatible"}


def test_duplicates_even_when_not_adjacent(install, step_code):
    for package in ("t_one", "t_two"):
        entries = {"cpplug.isr_step": {"same": package, f"own_{package}": package}}
        install(package, step_code("same"), entries)
    catalog = Catalog()
    with pytest.raises(PluginError, match=r"provided twice, by t_one-dist .* and by t_two-dist"):
        catalog.get("isr_step", "same")
    assert verdict_of(catalog, "same", check=False) == {"duplicate"}
    allowed = Catalog(blocked=["t_two"])
    assert allowed.provider("isr_step", "same") == "t_one-dist 1.2"
    assert allowed.get("isr_step", "same").name == "same"


@pytest.mark.parametrize("word", ["t_boom", "t-boom-dist", "boom", "isr_step:boom"])
def test_blocked_before_import(install, word):
    install("t_boom", "raise RuntimeError('imported')", {"cpplug.isr_step": {"boom": "t_boom"}})
    catalog = Catalog(blocked=[word])
    assert "boom" not in catalog.names("isr_step")
    with pytest.raises(PluginError, match=f"is blocked by '{word}'"):
        catalog.get("isr_step", "boom")
    assert verdict_of(catalog, "boom") == {"blocked"}
    assert catalog.idle_blocks() == []


def test_blocked_words_join_option_and_environment():
    assert names_blocked(["a"], " b, a,,c ") == ("a", "b", "c")
    assert Catalog(blocked=["no_such"]).idle_blocks() == ["no_such"]


def test_unknown_name_and_kind_suggest():
    catalog = Catalog()
    with pytest.raises(UnknownNameError, match="Did you mean 'overscan'"):
        catalog.get("isr_step", "overscann")
    with pytest.raises(UnknownNameError, match="no kind of plugin"):
        catalog.names("isr_stepp")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def cpplug_isr_steps():\n    return []\n", "not marked as a hook"),
        (
            "from cpplug.api import hookimpl\n@hookimpl\ndef cpplug_isr_stepz():\n    return []\n",
            "unknown hook cpplug_isr_stepz",
        ),
        (
            "from cpplug.api import hookimpl\n@hookimpl\ndef cpplug_isr_steps():\n    return [3]\n",
            "expected a named IsrStep",
        ),
        (
            "from cpplug.api import hookimpl\n@hookimpl\ndef cpplug_isr_steps():\n    return 1/0\n",
            "failed in cpplug_isr_steps: ZeroDivisionError",
        ),
        (
            "from cpplug.api import hookimpl\n@hookimpl\ndef cpplug_isr_steps(x):\n    return []\n",
            "implements a hook wrongly",
        ),
        (
            "from cpplug.api import hookimpl\n"
            "@hookimpl\ndef cpplug_execute(work):\n    return 42\n",
            "must implement cpplug_execute only as a wrapper",
        ),
        (
            "from cpplug.api import hookimpl\n"
            "@hookimpl(wrapper=True)\ndef cpplug_isr_steps():\n    return (yield)\n",
            "without wrapper=True",
        ),
    ],
)
def test_ill_formed_plugins_leave_nothing_behind(install, code, message):
    install("t_ill", code, {"cpplug.isr_step": {"x": "t_ill"}})
    catalog = Catalog()
    with pytest.raises(PluginError, match=message):
        catalog.get("isr_step", "x")
    assert not catalog._manager.has_plugin("t_ill")
    assert verdict_of(catalog, "x") == {"broken"}


def test_same_name_twice_in_one_module(install, step_code):
    code = step_code("x").replace("    yield ", "    for _ in range(2): yield ")
    install("t_twice", code, {"cpplug.isr_step": {"x": "t_twice"}})
    with pytest.raises(PluginError, match="offers ISR step 'x' twice"):
        Catalog().get("isr_step", "x")


def test_registration_is_atomic_in_pluggy():
    """pluggy 1.7: a rejected plugin leaves no half of itself behind."""
    import pluggy

    from cpplug.api.hooks import Hooks, hookimpl

    class Bad:
        @hookimpl
        def cpplug_combiners(self):
            return ["alive"]

        @hookimpl
        def cpplug_solvers(self, no_such_argument):
            return []

    manager = pluggy.PluginManager("cpplug")
    manager.add_hookspecs(Hooks)
    plugin = Bad()
    with pytest.raises(pluggy.PluginValidationError):
        manager.register(plugin)
    assert not manager.is_registered(plugin)
    assert manager.hook.cpplug_combiners() == []


def test_two_entry_points_of_one_module(install, step_code):
    code = step_code("a")
    code += "    yield IsrStep(name='b', summary='s', level='detector', apply=apply)\n"
    install("t_pair", code, {"cpplug.isr_step": {"a": "t_pair", "b": "t_pair"}})
    catalog = Catalog()
    assert catalog.get("isr_step", "a").name == "a"
    assert catalog.get("isr_step", "b").name == "b"


def test_stale_cache_is_not_believed(install, step_code):
    install("t_old", step_code("old"), {"cpplug.isr_step": {"old": "t_gone"}})
    catalog = Catalog()
    assert "old" in catalog.names("isr_step")  # stevedore has now cached both tables
    install("t_old", step_code("old"), {"cpplug.isr_step": {"old": "t_old"}, "cpplug.solver": {}})
    assert catalog.get("isr_step", "old").name == "old"
    install("t_late", step_code("late"), {"cpplug.isr_step": {"late": "t_late"}})
    assert Catalog().get("isr_step", "late").name == "late"


CALIBRATION = """
from cpplug.api import Calibration, ExposureQuery, hookimpl

def reduce(measurements, exposures, context):
    raise NotImplementedError

@hookimpl
def cpplug_calibrations():
    yield Calibration(name="wobble", summary="Wobble", inputs=ExposureQuery(), isr=(),
                      reduce=reduce, aliases=("cpWobble", "wobbleGen"))
"""


def test_calibration_by_alias_passes_over_broken_ones(install):
    install("t_wob", CALIBRATION, {"cpplug.calibration": {"wobble": "t_wob"}})
    install("t_bad", "1/0", {"cpplug.calibration": {"aaa_bad": "t_bad"}})
    catalog = Catalog(blocked=["cpplug_bias"])
    assert catalog.find_calibration("wobble").name == "wobble"
    assert catalog.find_calibration("cpwobble").name == "wobble"
    assert catalog.used() == {"calibration:wobble": "t_wob-dist 1.2"}
    with pytest.raises(UnknownNameError, match=r"aaa_bad.*Did you mean 'cpWobble'"):
        catalog.find_calibration("cpWobbel")


def test_command_must_be_a_click_command(install):
    code = "import click\n@click.command()\ndef hi():\n    '''Say hi.\n\n    More.'''\nno = 3\n"
    install("t_cmd", code, {"cpplug.command": {"hi": "t_cmd:hi", "no": "t_cmd:no"}})
    catalog = Catalog()
    assert catalog.summary("command", "hi") == "Say hi."
    assert "t_cmd" not in sys.modules
    assert catalog.get("command", "hi").name == "hi"
    with pytest.raises(PluginError, match="points to no click command"):
        catalog.get("command", "no")


def test_first_sentence_of_what_cannot_be_read(install):
    install("t_syn", "def (", {"cpplug.isr_step": {"syn": "t_syn"}})
    catalog = Catalog()
    assert first_sentence(catalog.entry("isr_step", "syn")) == ""


def test_plugin_file_is_recorded_with_its_hash(install, step_code, tmp_path):
    file = tmp_path / "my_step.py"
    file.write_text(step_code("mine"))
    catalog = Catalog(files=[file])
    assert "mine" in catalog.names("isr_step")
    assert catalog.get("isr_step", "mine").name == "mine"
    assert catalog.used()["isr_step:mine"].startswith("my_step.py sha256:")
    with pytest.raises(PluginError, match="does not exist"):
        Catalog(files=[tmp_path / "none.py"])


def test_plugin_file_may_replace_only_what_is_blocked(install, step_code, tmp_path):
    install("t_good", step_code("good"), {"cpplug.isr_step": {"good": "t_good"}})
    file = tmp_path / "mine.py"
    file.write_text(step_code("good"))
    with pytest.raises(PluginError, match=r"t_good-dist 1.2 provides already"):
        Catalog(files=[file])
    catalog = Catalog(files=[file], blocked=["t_good"])
    assert catalog.provider("isr_step", "good").startswith("mine.py sha256:")


def test_cp_catalog_refuses_discovery(cp_catalog):
    assert all(cp_catalog.names(kind) == [] for kind in cp_catalog.KINDS)
    assert cp_catalog.listing(check=True) == []


def _in_worker(spec):
    catalog = Catalog.from_spec(spec)
    return catalog.names("isr_step"), catalog.get("isr_step", "mine").name, catalog.used()


def test_worker_builds_the_same_catalog(step_code, tmp_path):
    file = tmp_path / "my_step.py"
    file.write_text(step_code("mine"))
    catalog = Catalog(files=[file], blocked=["cpplug_isr"])
    catalog.get("isr_step", "mine")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        names, name, used = pool.apply(_in_worker, (catalog.spec(),))
    assert names == catalog.names("isr_step")
    assert name == "mine"
    assert used == catalog.used()


def test_module_made_in_memory(cp_catalog, step_code):
    module = types.ModuleType("t_memory")
    exec(step_code("memory"), module.__dict__)
    cp_catalog.add_module(module)
    cp_catalog.add_module(module)
    assert cp_catalog.get("isr_step", "memory").name == "memory"
    assert [r.verdict for r in cp_catalog.listing(check=True)] == ["ok"]
