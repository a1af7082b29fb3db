"""The kit for testing plugins: fixtures, and contracts that a plugin of each kind must keep.

pytest loads this module by itself when cpplug is installed. Fixtures: ``cp_catalog`` (an empty
catalog that looks nowhere), ``cp_events`` (a bus that keeps what it hears), ``fake_camera``,
``fake_exposure``, ``fake_raw``, ``fake_context``. A contract is a class to subclass with one
attribute::

    class TestMyStep(IsrStepContract):
        step = my_plugin.STEP
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

if TYPE_CHECKING:
    from cpplug.api.camera import Camera
    from cpplug.api.events import Envelope
    from cpplug.api.exposure import Exposure, RawExposure
    from cpplug.api.fakes import FakeContext
    from cpplug.api.instrument import ExposureInfo, Header, Instrument
    from cpplug.api.product import TableProduct
    from cpplug.api.records import Calibration, Combiner, IsrStep, Solver
    from cpplug.host.bus import Bus
    from cpplug.host.catalog import Catalog


@pytest.fixture
def cp_catalog() -> Catalog:
    """Give a catalog that sees no installed plugin; use ``cp_catalog.add_module(my_plugin)``."""
    from cpplug.host.catalog import Catalog

    return Catalog(discover=False)


class EventRecorder:
    """A bus, and the list of envelopes it has sent."""

    def __init__(self, bus: Bus, heard: list[Envelope]) -> None:
        self.bus = bus
        self.heard = heard
        self.emit = bus.emit

    def named(self, event: str) -> list[Envelope]:
        """Return the envelopes of one event name."""
        return [envelope for envelope in self.heard if envelope.event == event]


@pytest.fixture
def cp_events() -> EventRecorder:
    """Give a bus whose events are kept in ``cp_events.heard``."""
    from cpplug.host.bus import Bus

    heard: list[Envelope] = []
    return EventRecorder(Bus("test", [("recorder", heard.append)]), heard)


@pytest.fixture
def fake_camera() -> Camera:
    """Give a camera of one detector with two amplifiers."""
    from cpplug.api.fakes import make_camera

    return make_camera()


@pytest.fixture
def fake_exposure() -> Callable[..., Exposure]:
    """Make an assembled exposure: ``fake_exposure(level, noise=4.0, seed=1)``."""
    from cpplug.api.fakes import make_exposure

    return make_exposure


@pytest.fixture
def fake_raw() -> Callable[..., RawExposure]:
    """Make a raw exposure: ``fake_raw(level, pedestal=1000.0, noise=4.0, seed=1)``."""
    from cpplug.api.fakes import make_raw

    return make_raw


@pytest.fixture
def fake_context(tmp_path: Path) -> Callable[..., FakeContext]:
    """Make a context: ``fake_context(config, combiners=..., calibs=...)``."""
    from cpplug.api.fakes import FakeContext, make_camera

    def make(config: Any = None, **parts: Any) -> FakeContext:
        camera = parts.pop("camera", None) or make_camera()
        first = next(iter(camera))
        return FakeContext(config=config, camera=camera, detector=first, scratch=tmp_path, **parts)

    return make


def check_options(config: type[Any]) -> None:
    """Assert that every option has a default that passes its own limits, and a sentence."""
    import msgspec

    msgspec.convert(msgspec.to_builtins(config()), config)
    schema = msgspec.json.schema(config)
    for option, facts in schema["$defs"][config.__name__].get("properties", {}).items():
        assert facts.get("description"), f"option {option} of {config.__name__} has no doc(...)"


class IsrStepContract:
    """What every ISR step must do; set ``step``."""

    step: ClassVar[IsrStep]

    def frame(self) -> Any:
        """Return the frame to work on; override it where a step needs another one."""
        from cpplug.api.fakes import make_exposure, make_raw

        raw = self.step.level == "amplifier" or self.step.assembles
        return make_raw(level=200.0) if raw else make_exposure(level=200.0)

    tables: ClassVar[dict[str, TableProduct]] = {}
    """Table calibrations that the step needs, by dataset type; images are made of zeros."""
    siblings: ClassVar[dict[str, Any]] = {}
    """Frames of other detectors of the exposure, by detector name."""

    def calibs(self) -> Any:
        """Return the calibrations; override it where an image of zeros will not do."""
        from cpplug.api.fakes import FakeCalibs, make_camera, make_product

        detector = make_camera().detector(0)
        images = [name for name in self.step.needs if name not in self.tables]
        products = {name: make_product(detector) for name in images}
        return FakeCalibs(products, self.tables, self.siblings)

    def options(self) -> Any:
        """Return the options; override it where the defaults do not suit the frame."""
        return self.step.config()

    def applied(self) -> Any:
        """Run the step on a fresh frame."""
        return self.step.apply(self.frame(), self.options(), self.calibs())

    def test_is_described(self) -> None:
        """Name, sentence and options are there."""
        assert self.step.name and self.step.summary
        check_options(self.step.config)

    def test_keeps_shapes_and_types(self) -> None:
        """Images stay float32, masks uint16, shapes as they were."""
        from cpplug.api.exposure import Exposure

        before, after = self.frame(), self.applied()
        if self.step.assembles:
            assert isinstance(after, Exposure)
            assert after.image.shape == before.detector.shape
        else:
            assert type(after) is type(before)
            assert self._layout(after) == self._layout(before)
        assert {kind for _, kind in self._layout(after)} <= {"float32", "uint16"}

    def test_identity_is_kept(self) -> None:
        """The step does not change which exposure this is."""
        before, after = self.frame(), self.applied()
        assert after.info == before.info
        assert after.detector == before.detector

    def test_has_no_memory(self) -> None:
        """The same frame gives the same result again."""
        import numpy as np

        for one, two in zip(
            self._arrays(self.applied()), self._arrays(self.applied()), strict=True
        ):
            assert np.array_equal(one, two, equal_nan=one.dtype.kind == "f")

    def test_says_that_it_looks_at_other_detectors(self) -> None:
        """Only a step whose record says so asks for other detectors' frames."""
        calibs = self.calibs()
        self.step.apply(self.frame(), self.options(), calibs)
        assert self.step.siblings or not calibs.asked

    def test_makes_no_new_nan(self) -> None:
        """A frame without NaN has none afterwards."""
        import numpy as np

        for array in self._arrays(self.applied()):
            assert np.isfinite(array).all()

    def _arrays(self, frame: Any) -> list[Any]:
        if hasattr(frame, "segments"):
            return [a for name in frame.segments for a in (frame.segments[name], frame.masks[name])]
        return [frame.image, frame.mask] + ([] if frame.variance is None else [frame.variance])

    def _layout(self, frame: Any) -> set[tuple[tuple[int, ...], str]]:
        return {(array.shape, str(array.dtype)) for array in self._arrays(frame)}


class CombinerContract:
    """What every combiner must do; set ``combiner``."""

    combiner: ClassVar[Combiner]

    def combined(self, images: Any, masks: Any = None) -> Any:
        """Run the combiner on (n, rows, columns) images; bit 0 (BAD) takes a pixel out."""
        from cpplug.api.stack import Block

        block = Block(images=images, masks=masks, variances=None, exclude=1, no_good_bits=1 << 8)
        return self.combiner.combine(block, self.combiner.config())

    def images(self, n: int = 9) -> Any:
        """Return n noisy frames of 8 x 12 pixels around 100."""
        import numpy as np

        return np.random.default_rng(5).normal(100.0, 3.0, (n, 8, 12)).astype(np.float32)

    def test_is_described(self) -> None:
        """Name, sentence and options are there."""
        assert self.combiner.name and self.combiner.summary
        check_options(self.combiner.config)

    def test_shapes_and_types(self) -> None:
        """A stack becomes one plane of the agreed types."""
        plane = self.combined(self.images())
        for name, kind in (
            ("image", "float32"), ("variance", "float32"), ("mask", "uint16"), ("used", "uint16")
        ):  # fmt: skip
            assert getattr(plane, name).shape == (8, 12)
            assert str(getattr(plane, name).dtype) == kind
        assert (plane.variance >= 0).all()
        assert ((plane.used >= 1) & (plane.used <= 9)).all()

    def test_order_of_frames_does_not_matter(self) -> None:
        """Reversing the stack changes nothing but rounding."""
        import numpy as np

        images = self.images()
        one, two = self.combined(images), self.combined(images[::-1].copy())
        np.testing.assert_allclose(one.image, two.image, rtol=1e-5)
        np.testing.assert_array_equal(one.used, two.used)

    def test_equal_frames_give_that_frame(self) -> None:
        """The combination of copies is the copy, without variance."""
        import numpy as np

        frame = self.images(1)
        plane = self.combined(np.repeat(frame, 5, axis=0))
        np.testing.assert_allclose(plane.image, frame[0], rtol=1e-6)
        np.testing.assert_allclose(plane.variance, 0.0, atol=1e-3)

    def test_result_lies_within_the_inputs(self) -> None:
        """No pixel leaves the range of its inputs, and the level is right."""
        images = self.images()
        image = self.combined(images).image
        assert (image >= images.min(axis=0)).all() and (image <= images.max(axis=0)).all()
        assert abs(float(image.mean()) - 100.0) < 1.0

    def test_masked_pixels_do_not_count(self) -> None:
        """A wild value under an excluded bit has no influence."""
        import numpy as np

        images = self.images()
        masks = np.zeros(images.shape, np.uint16)
        images[3, 2, 2], masks[3, 2, 2] = 1e6, 1
        plane = self.combined(images, masks)
        assert plane.image[2, 2] < 150.0
        assert plane.used[2, 2] <= 8

    def test_no_usable_input_is_said(self) -> None:
        """Where every input is masked the value is NaN and the mask says so."""
        import numpy as np

        images = self.images()
        masks = np.zeros(images.shape, np.uint16)
        masks[:, 4, 4] = 1
        plane = self.combined(images, masks)
        assert np.isnan(plane.image[4, 4])
        assert plane.used[4, 4] == 0
        assert plane.mask[4, 4] & (1 << 8)

    def test_inputs_are_left_alone(self) -> None:
        """The stack is not changed."""
        import numpy as np

        images = self.images()
        copy = images.copy()
        self.combined(images)
        np.testing.assert_array_equal(images, copy)


class CalibrationContract:
    """What every calibration recipe must do; set ``calibration``.

    ``solvers`` holds the solver records that the recipe asks for, by name.
    """

    calibration: ClassVar[Calibration]
    solvers: ClassVar[dict[str, Solver]] = {}

    def exposures(self) -> list[Exposure]:
        """Return exposures after ISR; override it where a recipe needs a series."""
        from cpplug.api.fakes import make_exposure, make_info

        kind = self.calibration.inputs.observation_type or "bias"
        return [
            make_exposure(10.0, seed=n, info=make_info(2026010100000 + n, kind))
            for n in range(1, 7)
        ]

    def test_is_described(self) -> None:
        """Name, sentence and options are there."""
        assert self.calibration.name and self.calibration.summary
        check_options(self.calibration.config)

    def test_steps_are_listed_once(self) -> None:
        """No step twice, and what is off is in the list."""
        for steps, off in (
            (self.calibration.isr, self.calibration.isr_off),
            (self.calibration.verify_isr, self.calibration.verify_isr_off),
        ):
            assert len(set(steps)) == len(steps)
            assert set(off) <= set(steps)

    def test_selection_can_be_written(self) -> None:
        """The default selection is a where expression, or everything."""
        assert isinstance(self.calibration.inputs.where(), str)

    def test_makes_a_product(self, fake_context: Callable[..., FakeContext]) -> None:
        """Measuring and reducing fake exposures gives a complete product."""
        import numpy as np

        from cpplug.api.fakes import FakeExposures
        from cpplug.api.product import ImageProduct, TableProduct

        frames = self.exposures()
        context = fake_context(self.calibration.config(), solvers=self.solvers)
        measure = self.calibration.measure
        measured = [measure(frame, context) for frame in frames] if measure else []
        product = self.calibration.reduce(measured, FakeExposures(frames), context)
        if isinstance(product, ImageProduct):
            assert product.unit
            for name, kind in (("image", "float32"), ("variance", "float32"), ("mask", "uint16")):
                array = getattr(product, name)
                assert array.shape == context.detector.shape and str(array.dtype) == kind
                assert np.isfinite(array).all()
        else:
            assert isinstance(product, TableProduct)
            assert len({len(column) for column in product.columns.values()}) == 1
            assert set(product.units) <= set(product.columns)


class InstrumentContract:
    """What every instrument must do; set ``instrument``, and real ``headers`` if you have them."""

    instrument: ClassVar[Instrument]
    headers: ClassVar[list[Header]] = []

    def header(self) -> Header:
        """Return a primary header: the first of ``headers``, or a simulated one."""
        return self.headers[0] if self.headers else self._simulated(self._info())

    def _info(self) -> ExposureInfo:
        from cpplug.api.fakes import make_info

        filters = self.instrument.filters or ("unknown",)
        return make_info(instrument=self.instrument.name, physical_filter=filters[0])

    def _simulated(self, info: ExposureInfo) -> Header:
        detector = next(iter(self.instrument.camera))
        frame = self.instrument.simulated_frame(info, detector.id)
        return {keyword: value for keyword, value, _ in frame.primary}

    def test_camera_can_be_read(self) -> None:
        """The camera file is whole: every amplifier has a gain and a place."""
        assert self.instrument.name
        for detector in self.instrument.camera:
            assert detector.amplifiers
            assert all(amplifier.gain > 0 for amplifier in detector.amplifiers)

    def test_claims_its_own_only(self) -> None:
        """Own headers are claimed; an empty one and a stranger's are not."""
        assert self.instrument.claims(self.header())
        assert not self.instrument.claims({})
        assert not self.instrument.claims({"INSTRUME": "a camera nobody has"})

    def test_translates(self) -> None:
        """The facts have the agreed form."""
        for header in self.headers or [self.header()]:
            info = self.instrument.translate(header)
            assert info.instrument == self.instrument.name
            assert info.exposure > 0
            assert 19000101 <= info.day_obs <= 29991231
            assert info.observation_type == info.observation_type.lower()
            assert info.exposure_time >= 0 and info.dark_time >= 0
            assert info.begin <= info.end
            assert info == self.instrument.translate(header)

    def test_simulated_headers_translate_back(self) -> None:
        """A simulated frame is read as the exposure it was made for."""
        info = self._info()
        seen = self.instrument.translate(self._simulated(info))
        for name in ("exposure", "day_obs", "seq_num", "observation_type", "exposure_time"):
            assert getattr(seen, name) == getattr(info, name), name

    def test_senseless_header_is_refused(self) -> None:
        """A header without the necessary cards is a DataError, not a guess."""
        from cpplug.api.errors import DataError

        with pytest.raises(DataError):
            self.instrument.translate({})
