"""Verification profiles: what they hold, and what is refused."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from cpplug.api.errors import ConfigError, UnknownNameError
from cpplug.engine.profiles import FOLDER, built_in, load_profile

VERIFIERS = {entry.name for entry in entry_points(group="cpplug.verifier")}
SMALL = """
profile = "mine"
[tests."bias.mean"]
tolerance = 1
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_built_in_profiles_name_tests_that_exist() -> None:
    assert built_in() == ["strict", "upstream-compat", "upstream-compat-2026"]
    for name in built_in():
        profile = load_profile(name, VERIFIERS)
        assert profile.name == name
        assert len(profile.sha256) == 64
        assert profile.tests


def test_every_verifier_is_in_a_profile() -> None:
    named = {test for name in built_in() for test in load_profile(name).tests}
    assert named == VERIFIERS


def test_strict_holds_the_numbers_of_the_specification() -> None:
    strict = load_profile()
    assert (strict.alpha_family, strict.min_independent, strict.min_good_fraction) == (0.01, 3, 0.5)
    mean, noise = strict.tests["bias.mean"], strict.tests["bias.noise"]
    assert (mean.tolerance, mean.goal, mean.unit) == (0.5, 0.1, "electron")
    assert (noise.tolerance, noise.goal, noise.two_sided) == (0.05, 0.02, True)
    required = {name for name, limits in strict.tests.items() if limits.severity == "required"}
    assert {
        "bias.mean",
        "bias.noise",
        "bias.cr_consistency",
        "bias.depth",
        "bias.rn_consistent",
    } <= (required)


def test_checksum_follows_content_not_layout(tmp_path: Path) -> None:
    first = load_profile(write(tmp_path, SMALL)).sha256
    assert (
        load_profile(write(tmp_path, "# a remark\n" + SMALL.replace("= 1", "= 1.0"))).sha256
        == first
    )
    assert load_profile(write(tmp_path, SMALL.replace("= 1", "= 1.1"))).sha256 != first
    assert load_profile(write(tmp_path, SMALL + 'unit = "electron"')).sha256 != first
    assert load_profile(write(tmp_path, "version = 2\n" + SMALL)).sha256 != first


def test_select_keeps_order_and_drops_what_the_profile_does_not_hold() -> None:
    strict = load_profile()
    chosen = strict.select(["bias.noise", "bias.compat.MEAN", "bias.mean"])
    assert list(chosen) == ["bias.noise", "bias.mean"]


def test_unknown_profile_and_test_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="strict"):
        load_profile("strikt")
    path = write(tmp_path, SMALL.replace("bias.mean", "bias.meen"))
    with pytest.raises(UnknownNameError, match=r"bias\.meen.*does not exist") as caught:
        load_profile(path, VERIFIERS)
    assert "bias.mean" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL + "tolerence = 1\n", "tolerence"),
        (SMALL.replace("= 1", '= "one"'), "float"),
        (SMALL + 'severity = "deadly"\n', "deadly"),
        ("[defaults]\nmin_independent = -1\n" + SMALL, "profile"),
        ("profile = [", "cannot be used"),
        ('profile = "x"\n', "tests"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml") as caught:
        load_profile(write(tmp_path, text))
    assert said in caught.value.message


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        load_profile(tmp_path / "none.toml")


def test_not_trusting_the_read_noise_is_a_profile_of_its_own() -> None:
    plain, lenient = load_profile(), load_profile(bootstrap=True)
    assert lenient.name == "strict+bootstrap"
    assert lenient.sha256 != plain.sha256
    assert lenient.tests == plain.tests


def test_other_limits_under_the_name_of_a_built_in_profile_are_refused(tmp_path: Path) -> None:
    text = (FOLDER / "strict.toml").read_text()
    assert load_profile(write(tmp_path, text)).sha256 == load_profile().sha256
    with pytest.raises(ConfigError, match="calls itself 'strict'"):
        load_profile(write(tmp_path, text.replace("tolerance = 0.5", "tolerance = 50")))
    own = text.replace("tolerance = 0.5", "tolerance = 50").replace('"strict"', '"summer"')
    assert load_profile(write(tmp_path, own)).name == "summer"
