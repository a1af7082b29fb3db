"""The kit for plugin authors holds real plugins to account, and catches bad ones."""

import numpy as np
import pytest

from cpplug.api import Combiner, IsrStep, Plane, TableProduct, camera_from, mask_bits
from cpplug.api.fakes import FakeCalibs, FakeExposures, make_exposure, make_product, make_raw
from cpplug.api.testing import (
    CalibrationContract,
    CombinerContract,
    InstrumentContract,
    IsrStepContract,
    check_options,
)
from cpplug.host.catalog import Catalog
from cpplug_bfk.product import kernel_table
from cpplug_crosstalk import make_crosstalk
from cpplug_cti.table import Transfer, Trap, make_cti
from cpplug_fringe.product import fringe_product
from cpplug_isr.gains import gain_correction_product
from cpplug_isr.overscan import OverscanConfig, subtract_overscan
from cpplug_linearity import Curve, make_linearity

BUILTIN = Catalog()


def contract(base, kind, attribute):
    """Make a test class that holds all built-in plugins of a kind to a contract."""

    class Contract(base):
        @pytest.fixture(autouse=True, params=BUILTIN.names(kind))
        def plugin(self, request):
            setattr(self, attribute, BUILTIN.get(kind, request.param))

    return Contract


AMPLIFIERS = ("A", "B")
DETECTOR = camera_from(
    {
        "name": "KitCam",
        "amplifier": {
            "source": [0, 0, 130, 124],
            "data": [2, 0, 120, 120],
            "serial_overscan": [122, 0, 8, 120],
            "parallel_overscan": [2, 120, 120, 4],
            "gain": 1.5,
            "read_noise": 6.0,
        },
        "detector": [
            {
                "id": 0,
                "name": "KIT_0",
                "amplifiers": [
                    {"name": "A", "hdu": 1, "bbox": [0, 0, 120, 120]},
                    {"name": "B", "hdu": 2, "bbox": [120, 0, 120, 120], "flip_x": True},
                ],
            }
        ],
    }
).detectors[0]
WAVES = np.sin(np.arange(DETECTOR.width) / 9.0) + np.zeros(DETECTOR.shape)
TABLES = {
    "defects": TableProduct(
        columns={
            "x0": np.array([3]),
            "y0": np.array([4]),
            "width": np.array([2]),
            "height": np.array([1]),
        }
    ),
    "gain_correction": gain_correction_product({"A": 1.1, "B": 0.9}),
    "linearity": make_linearity({name: Curve("Squared", np.array([1e-6])) for name in AMPLIFIERS}),
    "crosstalk": make_crosstalk(AMPLIFIERS, np.array([[0.0, 1e-4], [2e-4, 0.0]]), "adu"),
    "cti": make_cti(
        {
            name: Transfer(1e-4, 2.0, 1e-6, Trap("linear", 10.0, 2.0, 0, np.array([0.1])))
            for name in AMPLIFIERS
        }
    ),
    "bfk": kernel_table({"detector": np.full((5, 5), -1e-9)}),
}
IMAGES = {
    "bias": make_product(DETECTOR, 0.5),
    "dark": make_product(DETECTOR, 0.1, "adu/s"),
    "flat": make_product(DETECTOR, 1.1, "1"),
    "illum": make_product(DETECTOR, 0.9, "1"),
    "stray_light": make_product(DETECTOR, 0.1, "adu/s"),
    "fringe": fringe_product([WAVES], "unknown"),
}


class BuiltinStepContract(IsrStepContract):
    """Gives every built-in step a frame, and calibrations that change it."""

    def frame(self):
        if self.step.level == "detector":
            return make_exposure(level=200.0, detector=DETECTOR)
        frame = make_raw(level=200.0, detector=DETECTOR)
        if "overscan" in self.step.after:
            frame = subtract_overscan(frame, OverscanConfig(), None)
        return frame

    def calibs(self):
        return FakeCalibs(IMAGES, TABLES)


TestIsrSteps = contract(BuiltinStepContract, "isr_step", attribute="step")
TestCombiners = contract(CombinerContract, "combiner", attribute="combiner")
TestCalibrations = contract(CalibrationContract, "calibration", attribute="calibration")
TestCalibrations.solvers = {name: BUILTIN.get("solver", name) for name in BUILTIN.names("solver")}
TestInstruments = contract(InstrumentContract, "instrument", attribute="instrument")


def failures(case):
    """Return the names of the contract's tests that a plugin does not pass."""
    failed = set()
    for name in dir(case):
        if name.startswith("test_"):
            try:
                getattr(case, name)()
            except AssertionError:
                failed.add(name)
    return failed


def test_step_with_a_memory_is_caught():
    calls = []

    def apply(frame, config, calibs):
        calls.append(1)
        frame.image += np.float32(len(calls))
        frame.image[0, 0] = np.nan
        return frame

    class Case(IsrStepContract):
        step = IsrStep(name="s", summary="s", level="detector", apply=apply)

    assert failures(Case()) == {"test_has_no_memory", "test_makes_no_new_nan"}


def test_combiner_that_takes_the_first_frame_is_caught():
    def combine(block, config):
        return Plane(
            image=block.images[0].copy(),
            variance=np.zeros_like(block.images[0]),
            mask=np.zeros(block.images[0].shape, np.uint16),
            used=np.ones(block.images[0].shape, np.uint16),
        )

    class Case(CombinerContract):
        combiner = Combiner(name="c", summary="c", combine=combine)

    assert failures(Case()) == {
        "test_order_of_frames_does_not_matter",
        "test_no_usable_input_is_said",
    }


def test_option_without_a_sentence_is_caught():
    from cpplug.api import Config

    class Silent(Config, frozen=True):
        level: float = 1.0

    with pytest.raises(AssertionError, match="level of Silent has no doc"):
        check_options(Silent)


def test_fake_context_combines(fake_context, fake_exposure):
    context = fake_context()
    frames = [fake_exposure(level=10.0, seed=seed) for seed in range(6)]
    frames[0].mask[3, 3] = mask_bits("SAT")
    for frame in frames:
        frame.mask[5, 5] = mask_bits("BAD")
    combined = context.combine(FakeExposures(frames), "mean", halves=True)
    assert combined.used[3, 3] == 5 and combined.used[0, 0] == 6
    assert combined.n_repaired == 1 and combined.mask[5, 5] & mask_bits("BAD")
    assert combined.image.mean() == pytest.approx(10.0, abs=0.3)
    assert np.median(combined.variance) == pytest.approx(16.0 / 6, rel=0.2)
    assert combined.halves.std() == pytest.approx(4.0 * np.sqrt(2 / 3), rel=0.1)


def test_fake_calibs_behave_like_the_real_ones(fake_camera, fake_exposure):
    from cpplug.api import CalibrationMissing

    calibs = FakeCalibs({"bias": make_product(fake_camera.detector(0), 3.0)})
    assert calibs.has("bias") and not calibs.has("dark")
    assert calibs.image("bias", like=fake_exposure()).image.max() == 3.0
    with pytest.raises(CalibrationMissing):
        calibs.image("dark")
    with pytest.raises(CalibrationMissing):
        calibs.table("bias")


def test_fake_raw_has_pedestal_and_level(fake_raw):
    raw = fake_raw(200.0)
    for amplifier, image, mask in raw.amplifiers():
        assert image[amplifier.serial_overscan.slices].mean() == pytest.approx(1000.0, abs=1.0)
        assert image[amplifier.data.slices].mean() == pytest.approx(1200.0, abs=1.0)
        assert not mask.any()


def test_recorder_finds_events_by_name(cp_events):
    from cpplug.api.events import UnitSkipped

    cp_events.emit(UnitSkipped(unit="u", kind="isr", reason="done before"))
    assert len(cp_events.named("unit.skipped")) == 1
    assert cp_events.named("run.started") == []
