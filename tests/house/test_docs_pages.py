"""The written pages agree with the code: planes, cards, options, limits, news, versions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cpplug
from cpplug.api import MASK_PLANES
from cpplug.engine.plan import Request, make_settings
from cpplug.engine.profiles import load_profile
from cpplug.engine.settings import StackConfig
from cpplug.host.catalog import Catalog

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.docs


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading or sentence, without its head."""
    rest = page[page.index(heading) :]
    block = re.search(r"^\|.*?(?=\n\n|\Z)", rest, flags=re.DOTALL | re.MULTILINE)
    assert block is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block[0].splitlines()]
    return rows[2:]


def test_mask_planes() -> None:
    rows = table(read("docs/reference/mask-planes.md"), "# Mask planes")
    assert {row[0]: int(row[1]) for row in rows} == MASK_PLANES


def test_planes_that_stay_out() -> None:
    page = read("docs/reference/mask-planes.md").replace("\n  ", " ")
    from cpplug.engine.units import RESIDUAL_PLANES

    stack, residual = re.findall(r"^- A pixel.*$", page, flags=re.MULTILINE)
    assert set(re.findall(r"[A-Z_]{2,}", stack)) == set(StackConfig().mask)
    assert set(re.findall(r"[A-Z_]{2,}", residual)) == set(RESIDUAL_PLANES)


def test_cards_of_a_product() -> None:
    """Every card that a product's header gets is explained, and no other."""
    from cpplug.api.fakes import make_info
    from cpplug.engine.plan import Plan, Unit
    from cpplug.engine.provenance import product_cards
    from cpplug.store.records import DataId

    unit = Unit(info=make_info(detector_serial="S"), raw="", sha256="")
    plan = Plan(
        calibration="bias", instrument="simcam", inputs=(), where="", steps=(), groups=(),
        rejected=(), config_digest="",
    )  # fmt: skip
    calibs = [{"dataset_type": "bias", "dataset": "id"}]
    cards = product_cards(
        "id", plan, "run", DataId("simcam", 0, "r"), [unit],
        {"n_failed": 0, "calibrations": calibs}, Catalog().get("instrument", "simcam"),
    )  # fmt: skip
    made = {re.sub(r"_\d+$", "_<n>", key) for key in cards} | {"KIND"}
    rows = table(read("docs/reference/product-format.md"), "## Cards of every product")
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])} == made


def test_typed_options_set_what_the_page_says() -> None:
    rows = table(read("docs/reference/configuration.md"), "pipelines work as they stand")
    assert len(rows) > 4
    for typed, path in rows:
        override = typed.strip("`").removeprefix("-c ")
        request = Request(calibration="bias", instrument="simcam", overrides=(override,))
        settings = make_settings(Catalog(), request, None)[2]
        assert settings.values[path.strip("`")].source == f"-c {override}"


def test_option_file_of_the_page_can_be_read(tmp_path: Path) -> None:
    page = read("docs/reference/configuration.md")
    block = re.search(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    assert block is not None
    file = tmp_path / "options.toml"
    file.write_text(block[1], encoding="utf-8")
    request = Request(calibration="bias", instrument="simcam", option_files=(str(file),))
    settings = make_settings(Catalog(), request, None)[2]
    found = {path for path, value in settings.values.items() if value.source == str(file)}
    assert found == {
        "isr.do_defects", "isr.overscan.fit_type", "isr.overscan.leading_to_skip",
        "isr.overscan.num_sigma_clip", "combine.memory",
    }  # fmt: skip


def test_limits_of_the_strict_profile() -> None:
    profile = load_profile("strict")
    rows = table(read("docs/explanation/verification.md"), "## Tests of a bias")
    assert {row[0].strip("`") for row in rows} == set(profile.tests)
    for name, _, tolerance, goal, severity in rows:
        limits = profile.tests[name.strip("`")]
        assert severity == limits.severity, name
        if limits.tolerance is not None:
            assert float(tolerance) == limits.tolerance, name
        assert (float(goal) if goal else None) == limits.goal, name


def test_readme_lists_what_is_installed() -> None:
    catalog, page = Catalog(), read("README.md")
    strict = load_profile("strict").tests
    assert f"{len(strict)} strict tests" in page
    ours = [row.name for row in catalog.listing() if row.provider == "cpplug"]
    for name in ("LATISS", "simcam", "bias"):
        assert name in ours
        assert name in page
    words = {"parallel_overscan": "parallel overscan", "assemble": "assembly"}
    said = {"clipped_mean": "clipped mean"} | words
    for kind in ("isr_step", "combiner", "calibration"):
        for name in catalog.names(kind):
            assert said.get(name, name) in page, name


def test_waivers_of_the_page_can_be_read(tmp_path: Path) -> None:
    from cpplug.engine.certify import read_waivers

    block = re.search(r"```toml\n(.*?)```", read("docs/how-to/certify.md"), flags=re.DOTALL)
    assert block is not None
    (tmp_path / "known.toml").write_text(block[1], encoding="utf-8")
    waivers = read_waivers(tmp_path / "known.toml")
    assert [waiver.test for waiver in waivers] == ["bias.noise", "bias.rn_consistent"]
    assert all(waiver.objection(waiver.expires - 10**9) == "" for waiver in waivers)


def test_grid_of_the_page_can_be_read() -> None:
    import tomli

    from cpplug.api import camera_from

    page = read("docs/how-to/add-a-camera.md")
    block = re.search(r"```toml\n(rows = .*?)```", page, flags=re.DOTALL)
    assert block is not None
    shared = {"source": [0, 0, 8, 4], "data": [0, 0, 8, 4]}
    detector = {"id": 0, "name": "D", **tomli.loads(block[1])}
    camera = camera_from({"name": "grid", "amplifier": shared, "detector": [detector]})
    one = camera.detector(0).amplifier("C12")
    assert (one.hdu, tuple(one.bbox.slices[1].indices(99)[:2])) == ("Segment12", (16, 24))


def test_decisions_say_context_choice_and_cost() -> None:
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    for number, page in enumerate(pages, 1):
        text = page.read_text(encoding="utf-8")
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        for word in ("**Context.**", "**Choice.**", "**Cost.**"):
            assert word in text, page.name


def test_news_fragments_have_a_kind() -> None:
    kinds = {row[0].strip("`") for row in table(read("changes/README.md"), "| kind")}
    for path in (ROOT / "changes").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(rf"[\w-]+\.({'|'.join(kinds)})\.md", path.name), path.name
            assert path.read_text(encoding="utf-8").strip()


def test_citation_has_the_version() -> None:
    assert re.search(rf"^version: {re.escape(cpplug.__version__)}$", read("CITATION.cff"), re.M)


def test_links_between_pages_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(
            r"\]\(([^)#]+)\)|`((?:docs|examples|changes)/[\w./-]+)`", read(name)
        ):
            path = "".join(target)
            assert (ROOT / path).exists(), f"{name}: {path}"


def test_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "trees"),
         "-b", "html", str(DOCS), str(tmp_path / "html")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    assert (tmp_path / "html" / "index.html").is_file()
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "html").rglob("*.html")]
    loaded = [t for page in pages for t in re.findall(r"<(?:script|link|img)[^>]+//[^>]+>", page)]
    assert not loaded, "a page fetches something from elsewhere"
