"""Crosstalk between detectors, from raw files to products: a camera of two CCDs in the test."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from cpplug.api import (
    CalibrationMissing,
    DataError,
    ImageProduct,
    PluginError,
    TableProduct,
    UnknownNameError,
    mask_bits,
)
from cpplug.api.errors import UnitsFailed
from cpplug.engine.ingest import find_files, ingest
from cpplug.engine.plan import Request, make_plan
from cpplug.engine.plan_text import plan_rows
from cpplug.engine.products import write_product
from cpplug.engine.run import Driver, RunOptions
from cpplug.engine.single import correct
from cpplug.engine.tasks import make_task
from cpplug.host.catalog import Catalog
from cpplug.store import Repository
from cpplug.store.records import DataId, DatasetRecord
from cpplug_crosstalk import add_source, make_crosstalk

PLUGIN = '''
from functools import cached_property
from pathlib import Path
import numpy as np
from cpplug.api import (
    Calibration, ExposureInfo, ExposureQuery, Exposure, ImageProduct, Instrument, IsrStep,
    camera_from, hookimpl,
)

HEIGHT = {"W0": 20, "W1": 20, "W2": 14}

class Wide(Instrument):
    """Detectors of two amplifiers of 16 x 20 pixels, read from both sides; W2 is lower."""
    name = "DETECTORS"
    @cached_property
    def camera(self):
        return camera_from({"name": self.name, "detector": [{
            "id": n, "name": name,
            "amplifiers": [{"name": amp, "hdu": amp, "source": [0, 0, 20, HEIGHT[name]],
                "data": [0, 0, 16, HEIGHT[name]], "serial_overscan": [16, 0, 4, HEIGHT[name]],
                "bbox": [16 * i, 0, 16, HEIGHT[name]], "flip_x": i == 1, "gain": 2.0,
                "read_noise": 8.0} for i, amp in enumerate("AB")],
        } for n, name in enumerate(NAMES)]})
    def claims(self, header):
        return header.get("INSTRUME") == self.name
    def detectors(self, header):
        return (int(header["DETNUM"]),)
    def translate(self, header):
        n = int(header["EXPID"])
        return ExposureInfo(instrument=self.name, exposure=n, obs_id=str(n), day_obs=20240101,
            seq_num=n, observation_type="flat", exposure_time=1.0, dark_time=1.0,
            begin=n * 10**10, end=n * 10**10 + 10**9)

def reduce(measured, exposures, context):
    images = np.array([e.image for e in exposures])
    mean = images.mean(axis=0).astype(np.float32)
    mask = np.bitwise_or.reduce([e.mask for e in exposures])
    return ImageProduct(image=mean, mask=mask, variance=np.ones_like(mean), unit="adu")

def trace(frame, config, calibs):
    """Write down which detector came by; what it leaves in the frame can be seen by siblings."""
    with (Path(__file__).parent / "trace").open("a") as out:
        out.write(f"{frame.info.exposure}:{frame.detector.name}\\n")
    return frame

def peek(frame, config, calibs):
    calibs.sibling("W1")
    return frame

def add(frame, config, calibs):
    """Add what the other detector has: earlier looks are seen by later ones."""
    other = calibs.sibling({"W0": "W1", "W1": "W0"}[frame.detector.name])
    frame.image += other.image
    return frame

def spoil(frame, config, calibs):
    calibs.sibling("W1").image[:] = 0
    return frame

@hookimpl
def cpplug_instruments():
    yield Wide()

@hookimpl
def cpplug_isr_steps():
    yield IsrStep(name="trace", summary="T", level="detector", apply=trace)
    yield IsrStep(name="peek", summary="P", level="detector", apply=peek)
    yield IsrStep(name="spoil", summary="S", level="detector", apply=spoil, siblings=True)
    yield IsrStep(name="add1", summary="A", level="detector", apply=add, siblings=True)
    yield IsrStep(name="add2", summary="A", level="detector", apply=add, siblings=True)

@hookimpl
def cpplug_calibrations():
    chain = ("overscan", "assemble", "trace", "peek", "bias", "variance", "crosstalk")
    yield Calibration(name="widemean", summary="M", inputs=ExposureQuery(observation_type="flat"),
        isr=chain, isr_off=("peek", "bias"), reduce=reduce)
    for name in ("add2", "spoil"):
        yield Calibration(name="wide" + name, summary="M", inputs=ExposureQuery(),
            isr=("overscan", "assemble", "add1", name), isr_off=(), reduce=reduce)
'''
OWN = np.array([[0.0, 1e-3], [2e-3, 0.0]])
FROM = {"W0": ("W1", np.array([[3e-3, 0.0], [5e-4, 4e-3]])),
        "W1": ("W0", np.array([[0.0, 2e-3], [1e-3, 0.0]]))}  # fmt: skip
NOISE = 4.0


class World:
    """A repository with raw files of a camera of several detectors, ghosts put in by hand."""

    def __init__(self, folder, names=("W0", "W1"), exposures=(1, 2, 3), without=()):
        self.folder, self.names, self.exposures = folder, names, exposures
        self.instrument = f"wide{len(names)}"
        self.plugin = folder / "wide_plugin.py"
        text = PLUGIN.replace("DETECTORS", self.instrument).replace("NAMES", repr(tuple(names)))
        self.plugin.write_text(f'"""A camera of several detectors. {folder}"""\n{text}')
        self.catalog = Catalog(files=(self.plugin,))
        (folder / "raw").mkdir()
        self.clean = {}
        for number in exposures:
            self.write(number, without)
        self.repo = Repository.create(folder / "repo", None)
        outcomes = ingest(
            self.repo, self.catalog, find_files([folder / "raw"]), instrument=self.instrument
        )
        assert {outcome.status for outcome in outcomes} == {"ingested"}
        self.products = 0

    def write(self, number, without=()):
        """Write one exposure; ghosts are those of the light, in read-out order, before noise."""
        light = {name: self.light(number, name) for name in self.names}
        for n, name in enumerate(self.names):
            seen = light[name] + np.einsum("st,srx->trx", OWN, light[name])
            source, matrix = FROM.get(name, ("", OWN))
            if source in light:
                seen += np.einsum("st,srx->trx", matrix, light[source])
            random = np.random.default_rng([number, n, 7])
            noise = random.normal(0, NOISE, light[name].shape)
            self.clean[number, name] = np.hstack([light[name][0], light[name][1][:, ::-1]])
            if (number, name) in without:
                continue
            primary = fits.PrimaryHDU()
            primary.header.update({"INSTRUME": self.instrument, "EXPID": number, "DETNUM": n})
            hdus = [primary]
            for amp, pixels in zip("AB", seen + noise, strict=True):
                data = np.full((len(pixels), 20), 500.0, np.float32)
                data[:, :16] += pixels
                hdus.append(fits.ImageHDU(data, name=amp))
            fits.HDUList(hdus).writeto(self.folder / "raw" / f"{number}-{n}.fits", overwrite=True)

    def light(self, number, name):
        """Return 200 ADU of sky and a few bright blocks, (amplifier, row, column) as read."""
        random = np.random.default_rng([number, int(name[1])])
        light = np.full((2, 14 if name == "W2" else 20, 16), 200.0)
        for amp in light:
            for _ in range(3):
                y, x = random.integers(0, 11), random.integers(0, 13)
                amp[y : y + 3, x : x + 3] = 40_000.0
        return light

    def certify(self, detector, product):
        """Put a crosstalk (a table) or a bias where the runs look for it; return its run."""
        self.products += 1
        run = f"u/me/made{self.products}"
        self.repo.make_run(run)
        path = f"datasets/made{self.products}.fits"
        sha, size = write_product(self.repo.root / path, product, {})
        row = DatasetRecord(
            id=f"00000000-0000-4000-8000-{self.products:012d}", run=run, path=path, sha256=sha,
            dataset_type="crosstalk" if isinstance(product, TableProduct) else "bias", size=size,
            data_id=DataId(instrument=self.instrument, detector=detector), created=0,
            is_calibration=True, provenance={},
        )  # fmt: skip
        self.repo.add_datasets([row])
        return run

    def inputs(self, tables=None):
        """Certify the true coefficients of all detectors; return the collections to look in."""
        given = tables or {name: table_of(name) for name in self.names}
        runs = [self.certify(self.names.index(name), table) for name, table in given.items()]
        return (f"{self.instrument}/raw/all", *runs)

    def plan(self, inputs, calibration="widemean", **asked):
        request = Request(calibration=calibration, instrument=self.instrument, inputs=inputs,
                          overrides=(*CONFIG, *asked.pop("overrides", ())), **asked)  # fmt: skip
        return make_plan(self.repo, self.catalog, request)

    def build(self, inputs, *, jobs=1, heard=None, **asked):
        options = RunOptions(output="u/me/out", command="", jobs=jobs, max_failed="0")
        listeners = [] if heard is None else [("recorder", heard.append)]
        driver = Driver(self.repo, self.catalog, self.plan(inputs, **asked), options, listeners)
        return driver.carry_out()

    def tasks(self, prepared):
        return [
            make_task(prepared.plan, prepared, group, unit, None)
            for group in prepared.plan.groups
            for unit in group.units
        ]

    def traced(self):
        path = self.folder / "trace"
        return path.read_text().split() if path.exists() else []


CONFIG = ("overscan:fit_type=MEDIAN",)


def table_of(name, source=None, matrix=None, **parts):
    other, leak = FROM[name] if source is None else (source, matrix)
    return add_source(
        make_crosstalk(["A", "B"], OWN, "adu", DETNAME=name, **parts),
        other,
        make_crosstalk(["A", "B"], leak, "adu", **parts),
    )


def bias(level):
    plane = np.full((20, 32), level, np.float32)
    return ImageProduct(image=plane, mask=np.zeros(plane.shape, np.uint16), variance=0 * plane,
                        unit="adu")  # fmt: skip


@pytest.fixture
def wide(tmp_path):
    world = World(tmp_path)
    yield world
    world.repo.close()


def one(prepared, detector=0, exposure=1):
    group = next(g for g in prepared.plan.groups if g.detector == detector)
    return group, next(unit for unit in group.units if unit.info.exposure == exposure)


def corrected(world, prepared, detector=0, exposure=1, events=None):
    group, unit = one(prepared, detector, exposure)
    heard = [] if events is None else events
    return correct(prepared, group, unit, world.catalog, heard.append)


# ---- ghosts --------------------------------------------------------------------------------------
@pytest.mark.parametrize("detector", [0, 1])
def test_ghosts_of_the_other_detector_are_taken_out_to_the_noise(wide, detector):
    """Sources leak 4e-3 of 40000 ADU: 160 ADU; what leaked twice is 0.5 ADU and stays."""
    prepared = wide.plan(wide.inputs())
    frame = corrected(wide, prepared, detector)
    truth = wide.clean[1, wide.names[detector]]
    left = frame.image - truth
    assert abs(left.mean()) < 4 * NOISE / np.sqrt(left.size) + 0.1
    assert left.std() == pytest.approx(NOISE, rel=0.1)
    assert np.abs(left).max() < 5 * NOISE
    only_own = wide.plan(
        wide.inputs({name: make_crosstalk("AB", OWN, "adu") for name in wide.names})
    )
    before = corrected(wide, only_own, detector).image - truth
    assert before.max() > 15 * NOISE


def test_sources_are_the_frames_before_their_own_correction(wide):
    """The answer is the sum written down with raw values of both detectors, noise included."""
    frame = corrected(wide, wide.plan(wide.inputs()))
    raw = {}
    for n, name in enumerate(wide.names):
        with fits.open(wide.folder / "raw" / f"1-{n}.fits") as hdus:
            segments = np.array([hdus[amp].data.astype(np.float64) for amp in "AB"])
        raw[name] = segments[:, :, :16] - 500.0
    expected = raw["W0"] - np.einsum("st,srx->trx", OWN, raw["W0"])
    expected -= np.einsum("st,srx->trx", FROM["W0"][1], raw["W1"])
    np.testing.assert_allclose(frame.amp("A")[0], expected[0], atol=0.01)
    np.testing.assert_allclose(frame.amp("B")[0][:, ::-1], expected[1], atol=0.01)
    # Signal and variance go together: V = I/g + R^2 before, and the leaks' variance on top.
    variance = {name: pixels / 2.0 + 16.0 for name, pixels in raw.items()}
    spread = variance["W0"] + np.einsum("st,srx->trx", OWN**2, variance["W0"])
    spread += np.einsum("st,srx->trx", FROM["W0"][1] ** 2, variance["W1"])
    np.testing.assert_allclose(frame.variance[:, :16], spread[0], rtol=1e-5)


def test_a_source_is_corrected_with_its_own_calibrations(wide):
    inputs = wide.inputs()
    plain = corrected(wide, wide.plan(inputs)).image
    runs = [wide.certify(0, bias(0.0)), wide.certify(1, bias(100.0))]
    frame = corrected(wide, wide.plan((*inputs, *runs), overrides=("isr:do_bias=True",)))
    difference = frame.image - plain
    np.testing.assert_allclose(difference[:, :16], 100.0 * 3.5e-3, atol=5e-3)
    np.testing.assert_allclose(difference[:, 16:], 100.0 * 4e-3, atol=5e-3)


def test_marks_are_where_bright_pixels_of_the_other_detector_were(wide):
    only_other = add_source(
        make_crosstalk("AB", 0 * OWN, "adu"), "W1", make_crosstalk("AB", FROM["W0"][1], "adu")
    )
    inputs = wide.inputs({"W0": only_other, "W1": table_of("W1")})
    frame = corrected(wide, wide.plan(inputs, overrides=("isr:crosstalk.min_pixel_to_mask=20000",)))
    bright = wide.clean[1, "W1"] > 20_000
    a, b = bright[:, :16], bright[:, 16:][:, ::-1]
    marked = (frame.mask & mask_bits("CROSSTALK")) != 0
    np.testing.assert_array_equal(marked[:, :16], a | b)
    np.testing.assert_array_equal(marked[:, 16:][:, ::-1], b)
    assert frame.measured("crosstalk_pixels") == marked.sum() > 0


# ---- what is not there ---------------------------------------------------------------------------
def test_a_source_without_a_raw_file_is_recorded_and_left_out(tmp_path):
    world = World(tmp_path, exposures=(1,), without={(1, "W1")})
    events = []
    prepared = world.plan(world.inputs())
    assert [group.detector_name for group in prepared.plan.groups] == ["W0"]
    frame = corrected(world, prepared, events=events)
    assert frame.measured("crosstalk_source_missing", "W1") == 1
    own = world.plan(world.inputs({"W0": make_crosstalk("AB", OWN, "adu")}))
    np.testing.assert_array_equal(frame.image, corrected(world, own).image)
    said = [e for e in events if getattr(e, "quantity", "") == "crosstalk_source_missing"]
    assert [e.scope for e in said] == ["W1"]
    world.repo.close()


def test_a_source_that_the_camera_does_not_know_is_an_error(wide):
    prepared = wide.plan(wide.inputs({"W0": table_of("W0", "X9", OWN), "W1": table_of("W1")}))
    with pytest.raises(UnknownNameError, match="Step crosstalk: wide2 has no detector 'X9'"):
        corrected(wide, prepared)


def test_a_source_of_another_size_is_refused(tmp_path):
    world = World(tmp_path, names=("W0", "W1", "W2"), exposures=(1,))
    own = make_crosstalk("AB", OWN, "adu")
    tables = {"W0": table_of("W0", "W2", OWN), "W1": own, "W2": own}
    prepared = world.plan(world.inputs(tables))
    with pytest.raises(DataError, match="detector W2 are not of the size of those of W0"):
        corrected(world, prepared)
    world.repo.close()


def test_a_calibration_that_only_the_source_lacks_is_named_when_it_is_asked_for(wide):
    """Nothing is missing as long as the product names no other detector."""
    inputs, run = wide.inputs(), wide.certify(0, bias(0.0))
    on = {"overrides": ("isr:do_bias=True",), "detectors": ("W0",)}
    with pytest.raises(CalibrationMissing, match=r"Step crosstalk: Detector W1: .*bias"):
        corrected(wide, wide.plan((*inputs, run), **on))
    own = wide.certify(0, make_crosstalk("AB", OWN, "adu"))
    alone = wide.plan((inputs[0], own, run), **on)
    assert one(alone)[1].siblings[0].missing
    assert corrected(wide, alone).measured("crosstalk_pixels") is not None
    assert wide.traced().count("1:W1") == 0, "a detector that leaks nothing is not read"


def test_a_damaged_source_fails_the_unit_with_both_names(wide):
    inputs = wide.inputs()
    for path in wide.repo.root.glob("**/2-1.fits"), (wide.folder / "raw").glob("2-1.fits"):
        for file in path:
            file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(UnitsFailed, match="Step crosstalk: Detector W1: "):
        wide.build(inputs, detectors=("W0",))


# ---- runs ----------------------------------------------------------------------------------------
def pixels_of(world, result):
    found = {}
    for product in result.products:
        with fits.open(world.repo.root / product.path) as hdus:
            found[product.data_id.detector] = [hdu.data.tobytes() for hdu in hdus[1:]]
    return found


def test_neither_order_nor_number_of_workers_matters(wide):
    inputs = wide.inputs()
    results = [
        wide.build(inputs),
        wide.build(inputs, jobs=2),
        wide.build(inputs, detectors=("W1", "W0")),
        wide.build(inputs, detectors=("W1",)),
        wide.build(inputs, detectors=("W0",)),
    ]
    first, two, turned, *single = [pixels_of(wide, result) for result in results]
    assert first == two == turned
    assert single == [{1: first[1]}, {0: first[0]}]


def test_what_happens_to_a_sibling_is_not_told_as_the_units_own(wide):
    heard = []
    wide.build(wide.inputs(), heard=heard, detectors=("W0",), exposures=(1,))
    steps = [told.body.step for told in heard if told.event == "isr.step.finished"]
    assert steps == ["overscan", "assemble", "trace", "variance", "crosstalk"]
    assert wide.traced() == ["1:W0", "1:W1"]


def test_the_frame_of_a_sibling_cannot_be_changed(wide):
    with pytest.raises(PluginError, match=r"Step spoil broke: ValueError: .*read-only"):
        corrected(wide, wide.plan(wide.inputs(), calibration="widespoil"))


def test_a_step_that_did_not_announce_it_is_refused(wide):
    prepared = wide.plan(wide.inputs(), overrides=("isr:do_peek=True",))
    with pytest.raises(
        PluginError, match=r"Step peek: .* detector W1 was asked for without notice"
    ):
        corrected(wide, prepared)


def test_two_steps_that_look_at_each_other_see_both_stages(wide):
    """Both detectors add the other; the second step sees what the first made of it."""
    prepared = wide.plan(wide.inputs(), calibration="wideadd2")
    frame, other = (corrected(wide, prepared, detector).image for detector in (0, 1))
    plain = wide.plan(wide.inputs(), calibration="wideadd2",
                      overrides=("isr:do_add1=False", "isr:do_add2=False"))  # fmt: skip
    raw, other_raw = (corrected(wide, plain, detector).image for detector in (0, 1))
    assert one(plain)[1].siblings == ()
    both = raw + other_raw
    np.testing.assert_allclose(frame, both + (other_raw + raw), rtol=1e-6)
    np.testing.assert_allclose(other, frame, rtol=1e-6)


def test_provenance_names_the_frames_that_could_be_looked_at(wide):
    result = wide.build(wide.inputs(), detectors=("W1",))
    facts = wide.repo.provenance(result.products[0].id)
    raws = wide.repo.raw_paths(wide.instrument, 0, wide.exposures)
    assert facts["siblings"] == [
        {"exposure": n, "detector": 0, "sha256": raws[n].sha256, "calibrations": []}
        for n in wide.exposures
    ]


# ---- the plan ------------------------------------------------------------------------------------
def test_a_unit_is_another_one_when_a_siblings_raw_file_is_another(tmp_path):
    keys, digests = [], []
    for change in (False, True):
        folder = tmp_path / str(change)
        folder.mkdir()
        world = World(folder)
        if change:
            world.repo.close()
            with fits.open(folder / "raw" / "2-1.fits", mode="update") as hdus:
                hdus["A"].data[3, 3] += 1
            world.repo = Repository.create(folder / "again", None)
            files = find_files([folder / "raw"])
            ingest(world.repo, world.catalog, files, instrument=world.instrument)
        prepared = world.plan(world.inputs(), detectors=("W0",))
        keys.append({task.info.exposure: task.key for task in world.tasks(prepared)})
        digests.append(prepared.plan.digest())
        world.repo.close()
    assert [keys[0][n] == keys[1][n] for n in (1, 2, 3)] == [True, False, True]
    assert digests[0] != digests[1]


def test_siblings_are_planned_only_where_a_step_looks_at_them(wide):
    inputs = wide.inputs()
    (sibling,) = one(wide.plan(inputs))[1].siblings
    assert (sibling.detector, sibling.calibs, sibling.missing) == (1, (), "")
    off = wide.plan(inputs, overrides=("isr:do_crosstalk=False",))
    assert all(unit.siblings == () for group in off.plan.groups for unit in group.units)


def test_a_plan_that_is_shown_names_the_detectors_beside(wide):
    inputs = (*wide.inputs(), *(wide.certify(n, bias(0.0)) for n in (0, 1)))
    on = {"overrides": ("isr:do_bias=True",), "detectors": ("W0",)}
    request = Request(calibration="widemean", instrument=wide.instrument)
    shown = plan_rows(wide.plan(inputs, **on), request)
    assert [row["siblings"] for row in shown["exposures"]] == [["W1"]]
    assert [row["type"] for row in shown["calibrations"]].count("bias") == 2
    on["overrides"] += ("isr:do_crosstalk=False",)
    shown = plan_rows(wide.plan(inputs, **on), request)
    assert [row["siblings"] for row in shown["exposures"]] == [[]]


def test_a_camera_of_one_detector_plans_and_reads_nothing_more(tmp_path, monkeypatch):
    world = World(tmp_path, names=("W0",))
    inputs = world.inputs({"W0": table_of("W0")})
    asked = []
    find = Repository.raw_paths
    monkeypatch.setattr(
        Repository, "raw_paths", lambda *given: asked.append(given[2]) or find(*given)
    )
    prepared = world.plan(inputs)
    assert asked == [0]
    assert all(unit.siblings == () for group in prepared.plan.groups for unit in group.units)
    own = world.plan(world.inputs({"W0": make_crosstalk("AB", OWN, "adu")}))
    with pytest.raises(UnknownNameError, match="has no detector 'W1'"):
        corrected(world, prepared)
    assert corrected(world, own).measured("crosstalk_pixels") is not None
    assert world.traced() == ["1:W0"] * 2
    world.repo.close()


def test_a_plan_asks_the_registry_once_for_every_detector(wide, monkeypatch):
    asked = []
    find = Repository.find
    monkeypatch.setattr(
        Repository, "find", lambda *given: asked.append((given[1], given[2])) or find(*given)
    )
    runs = [wide.certify(n, bias(0.0)) for n in (0, 1)]
    wide.plan((*wide.inputs(), *runs), overrides=("isr:do_bias=True",))
    assert len(set(asked)) == 4 and len(asked) == 4 * len(wide.exposures)
