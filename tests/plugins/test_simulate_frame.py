"""The simulator does what its truth says, effect by effect, by estimators of its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cpplug.api import Box, ConfigError, ExposureInfo, Instrument, UnknownNameError, camera_from
from cpplug_simulate import covariance_model, plan, settings_for, simulate_frame
from cpplug_simulate.settings import EFFECTS, RECIPES, describe

FIRST = 2021012000019


class Bench(Instrument):
    """Two amplifiers, read from the lower corners, 100 x 120 pixels each."""

    name = "bench"
    camera = camera_from(
        {
            "name": "bench",
            "amplifier": {
                "source": [0, 0, 130, 128],
                "data": [4, 0, 100, 120],
                "prescan": [0, 0, 4, 120],
                "serial_overscan": [104, 0, 26, 120],
                "parallel_overscan": [4, 120, 100, 8],
                "saturation": 120000.0,
            },
            "detector": [
                {
                    "id": 0,
                    "name": "D",
                    "amplifiers": [
                        {
                            "name": "A",
                            "hdu": "A",
                            "bbox": [0, 0, 100, 120],
                            "gain": 1.2,
                            "read_noise": 6.0,
                        },
                        {
                            "name": "B",
                            "hdu": "B",
                            "bbox": [100, 0, 100, 120],
                            "flip_x": True,
                            "gain": 1.6,
                            "read_noise": 9.0,
                        },
                    ],
                }
            ],
        }
    )


BENCH = Bench()
GAIN = {"A": 1.2, "B": 1.6}


def only(*on: str, recipe: str = "flat", **changes: object):
    """Settings with just these effects on."""
    switches = {f"{name}.on": name in on for name in EFFECTS}
    return settings_for(recipe, {**switches, **changes})


def shoot(settings, recipe="flat", time=1.0, number=0, seed=1, filters=()):
    times = (time,) if recipe != "bias" else ()
    info = plan(
        BENCH, recipe, [FIRST + number], settings=settings, seed=seed, times=times, filters=filters
    )[0]
    return simulate_frame(BENCH, info, 0, settings, seed)


# ---- electronics -----------------------------------------------------------------------------
def test_level_noise_and_gain_are_those_of_the_truth():
    settings = settings_for("bias")
    frames = [shoot(settings, "bias", number=k) for k in range(12)]
    for name, amplifier in zip("AB", BENCH.camera.detectors[0].amplifiers, strict=True):
        region = np.array([f.segments[name][amplifier.serial_overscan.slices] for f in frames])
        truth = np.array([f.row_level[name][:120] for f in frames])[:, :, None]
        residual = region - truth
        static = frames[0].static
        assert residual.mean() == pytest.approx(static.level[name], abs=0.15)
        noise = np.hypot(static.read_noise[name] / GAIN[name], 1 / np.sqrt(12))
        assert residual.std() == pytest.approx(noise, rel=0.02)


def test_the_true_bias_is_the_mean_over_noise_of_data_less_the_row_level():
    settings = settings_for("bias", {"hot_pixels.on": False, "bad_columns.on": False})
    count = 40
    stacks = {name: 0.0 for name in "AB"}
    for k in range(count):
        frame = shoot(settings, "bias", number=k)
        for name, segment in frame.segments.items():
            rows = segment[:120, 104:].mean(axis=1, keepdims=True)
            stacks[name] = stacks[name] + (segment[:120, 4:104] - rows) / count
    residual = np.hstack([stacks["A"], stacks["B"][:, ::-1]]) - frame.static.bias
    assert frame.static.bias.std() > 1
    for name, columns in (("A", slice(0, 100)), ("B", slice(100, 200))):
        noise = np.hypot(frame.static.read_noise[name] / GAIN[name], 1 / np.sqrt(12))
        expected = noise * np.sqrt((1 + 1 / 26) / count)
        assert residual[:, columns].std() == pytest.approx(expected, rel=0.03)
        assert abs(residual[:, columns].mean()) < 4 * noise / np.sqrt(26 * 120 * count)


def test_rows_drift_alike_in_data_and_overscan_and_settle_after_the_start():
    settings = only("row_drift", "bias_level", recipe="bias", **{"row_drift.exposure": 0.0})
    frames = [shoot(settings, "bias", number=k) for k in range(60)]
    segment = frames[0].segments["A"]
    assert (np.ptp(segment, axis=1) == 0).all()
    levels = np.array([f.row_level["A"] for f in frames])
    start = 12.0 * np.exp(-np.arange(128) / 25.0)
    assert levels.mean(axis=0) == pytest.approx(start, abs=4 * 1.5 / np.sqrt(60))
    walk = levels - start
    assert walk.std() == pytest.approx(1.5, rel=0.15)
    steps = np.diff(walk, axis=1)
    assert steps.var() == pytest.approx(2 * 1.5**2 * (1 - np.exp(-1 / 150)), rel=0.1)


def test_the_row_transient_decays_along_the_row_and_spares_the_overscan():
    settings = only("row_transient", "bias_level", recipe="bias", **{"row_transient.amplitude": 80})
    frame = shoot(settings, "bias")
    profile = frame.segments["A"].mean(axis=0) - frame.static.level["A"]
    assert abs(profile[104:]).max() <= 0.5
    assert profile[4:40] == pytest.approx(80 * np.exp(-np.arange(4, 40) / 12), abs=0.6)


def test_an_offset_can_be_put_on_one_amplifier():
    changes = {"bias_structure.offsets.B": "5.0"}
    plain = shoot(settings_for("bias"), "bias").static
    moved = shoot(settings_for("bias", changes), "bias").static
    difference = moved.bias - plain.bias
    assert np.allclose(difference[:, 100:], 5, atol=1e-4)
    assert not difference[:, :100].any()


def test_noise_and_gain_factors_scale_the_nominal_values():
    changes = {"read_noise.factors.A": "0.5", "gain.factors.B": "1.1"}
    static = shoot(settings_for("bias", changes), "bias").static
    assert static.read_noise == {"A": 3.0, "B": 9.0}
    assert static.gain == pytest.approx({"A": 1.2, "B": 1.76})


def test_numbers_are_rounded_and_clipped():
    settings = only("lamp", "gain", "adc", **{"adc.maximum": 1000, "lamp.scatter": 0})
    frame = shoot(settings, time=1.0)
    assert (frame.segments["A"][:120, 4:104] == 1000).all()
    low = shoot(settings, time=1 / 25_000 * 1.2 * 100.4)
    assert (low.segments["A"][:120, 4:104] == 100).all()
    open_end = only("lamp", "gain", **{"lamp.scatter": 0, "adc.maximum": 1000})
    assert shoot(open_end, time=1.2).segments["A"].max() == 25_000
    noisy = only("read_noise", recipe="bias", **{"read_noise.factors.A": 10})
    assert shoot(noisy, "bias").segments["A"].min() == 0


def test_nonlinearity_bends_as_the_coefficients_say():
    quiet = ("lamp", "gain", "bias_level")
    for time in (0.4, 2.0, 4.0):
        straight = shoot(only(*quiet, **{"lamp.scatter": 0}), time=time)
        bent = shoot(only(*quiet, "nonlinearity", **{"lamp.scatter": 0}), time=time)
        for name in "AB":
            x = 25_000 * time / GAIN[name]
            c2, c3 = bent.static.nonlinearity[name]
            shift = bent.segments[name][50, 50] - straight.segments[name][50, 50]
            assert shift == pytest.approx(c2 * x**2 + c3 * x**3, abs=1.01)
            assert bent.segments[name][50, 120] == straight.segments[name][50, 120]


def test_ghosts_follow_the_matrix_from_source_to_target():
    names = ("stars", "gain")
    changes = {
        "stars.density": 2000,
        "stars.low": 5e4,
        "stars.high": 2e5,
        "crosstalk.nearest": 0.02,
    }
    plain = shoot(only(*names, **changes), time=1.0)
    ghosts = shoot(only(*names, "crosstalk", **changes), time=1.0)
    matrix = ghosts.static.crosstalk
    assert matrix[0, 1] != matrix[1, 0]
    assert not matrix.diagonal().any()
    for target, source, coefficient in (("B", "A", matrix[0, 1]), ("A", "B", matrix[1, 0])):
        added = (ghosts.segments[target] - plain.segments[target]).astype(float)
        light = plain.segments[source].astype(float)
        assert (added * light).sum() / (light**2).sum() == pytest.approx(coefficient, rel=0.01)


def test_photon_transfer_through_the_whole_camera():
    """Flat pairs as files would hold them follow gain, read noise and a-matrix of the truth."""
    changes = {"crosstalk.on": False, "nonlinearity.on": False, "cti.on": False}
    settings = settings_for("flat", {**changes, "cosmic_rays.on": False})
    static = shoot(settings, time=0.5).static
    good = static.mask == 0
    good = {"A": good[:, :100], "B": good[:, :99:-1]}
    for time in (0.08, 3.0):
        values = {"A": [], "B": []}
        for pair in range(12):
            frames = [shoot(settings, time=time, number=2 * pair + k) for k in range(2)]
            for name in "AB":
                one, two = (
                    f.segments[name][:120, 4:104]
                    - static.level[name]
                    - f.row_level[name][:120, None]
                    for f in frames
                )
                mean = (one[good[name]].mean() + two[good[name]].mean()) / 2
                scaled = one * (mean / one[good[name]].mean()) - two * (
                    mean / two[good[name]].mean()
                )
                values[name].append((mean, scaled[good[name]].var() / 2))
        for name in "AB":
            mean, variance = np.mean(values[name], axis=0)
            electrons_ = mean * GAIN[name]
            photons = covariance_model(static.kernel, electrons_)[0, 0] / GAIN[name] ** 2
            noise = (static.read_noise[name] / GAIN[name]) ** 2 + 1 / 12
            error = np.sqrt(2 / (12 * good[name].sum()))
            # PRNU and vignetting change the local mean, but not the mean of the variance.
            assert variance == pytest.approx(photons + noise, rel=4 * error)
    assert photons < 0.95 * electrons_ / GAIN[name] ** 2


# ---- light -----------------------------------------------------------------------------------
def test_response_is_gradient_times_prnu_times_vignetting():
    settings = only("lamp", "qe_gradient", "prnu", "vignetting", **{"lamp.scatter": 0})
    frame = shoot(settings, time=1.0)
    image = frame.charge / 25_000
    assert np.allclose(image, frame.response, rtol=1e-6)
    pixels = image / np.array([[image.mean()]])
    high = pixels[1:, :] - pixels[:-1, :]
    assert high.std() / np.sqrt(2) == pytest.approx(0.006, rel=0.03)
    corners = np.mean([image[:8, :8], image[:8, -8:], image[-8:, :8], image[-8:, -8:]])
    assert corners / image[50:70, 80:120].mean() == pytest.approx(0.957, abs=0.004)
    red = frame.static.response("red") / frame.static.response("blue")
    assert np.ptp(red) > 0.005
    assert abs(np.diff(red, axis=0)).max() < 1e-3  # the same pixels, another slope


def test_dust_moves_where_it_is_told():
    changes = {"donuts.density": 150, "donuts.radius": 12, "lamp.scatter": 0}
    here = shoot(only("lamp", "donuts", **changes))
    moved = shoot(only("lamp", "donuts", **changes, **{"donuts.shift_x": 7, "donuts.shift_y": 3}))
    assert len(here.facts["donuts"]) >= 1
    assert here.response.min() < 0.99
    assert np.allclose(moved.response[3:, 7:], here.response[:-3, :-7], atol=2e-3)
    x = [spot["x"] for spot in here.facts["donuts"]]
    assert [spot["x"] for spot in moved.facts["donuts"]] == pytest.approx([v + 7 for v in x])
    shaking = only("lamp", "donuts", **changes, **{"donuts.jitter": 2})
    assert shoot(shaking).facts["donuts"] != shoot(shaking, number=1).facts["donuts"]


def test_sky_has_its_gradient_and_fringes_their_weights():
    from cpplug_simulate.light import fringe_modes

    settings = only("sky", "fringes", recipe="science", **{"fringes.period": 20, "sky.rate": 100})
    frame = shoot(settings, "science", time=10)
    facts = frame.facts["sky"]
    y, x = np.mgrid[:120, :200]
    modes = fringe_modes(settings, 1, 0, (120, 200))
    terms = [np.ones(x.size), (x / 200).ravel(), (y / 120).ravel(), *[m.ravel() for m in modes]]
    fit = np.linalg.lstsq(np.array(terms).T, frame.charge.ravel() / 1000, rcond=None)[0]
    assert fit[3:] == pytest.approx(facts["fringe_weights"], abs=1e-5)
    assert abs(fit[1]) + abs(fit[2]) == pytest.approx(0.03, rel=1e-3)
    assert np.arctan2(fit[2], fit[1]) % (2 * np.pi) == pytest.approx(facts["gradient_angle"])
    other = shoot(settings, "science", time=10, number=1).facts["sky"]
    assert other["fringe_weights"] != facts["fringe_weights"]


def test_stars_bring_the_flux_they_are_listed_with():
    settings = only("stars", recipe="science", **{"stars.density": 400, "stars.fwhm": 4})
    frame = shoot(settings, "science", time=20)
    listed = frame.facts["stars"]
    inside = [s for s in listed if 15 < s["x"] < 185 and 15 < s["y"] < 105]
    assert inside
    total = sum(s["flux"] for s in inside) * 20
    edge = frame.charge.copy()
    edge[15:106, 15:186] = 0
    assert (frame.charge.sum() - edge.sum()) == pytest.approx(total, rel=0.02)
    star = max(inside, key=lambda s: s["flux"])
    y, x = np.mgrid[-5:6, -5:6]
    box = frame.charge[
        round(star["y"]) - 5 : round(star["y"]) + 6, round(star["x"]) - 5 : round(star["x"]) + 6
    ]
    assert (box * x).sum() / box.sum() + round(star["x"]) == pytest.approx(star["x"], abs=0.3)
    assert (box * y).sum() / box.sum() + round(star["y"]) == pytest.approx(star["y"], abs=0.3)


def test_lamp_scatters_between_exposures():
    settings = only("lamp", **{"lamp.scatter": 0.05})
    scales = [shoot(settings, number=k).facts["lamp_scale"] for k in range(40)]
    assert np.std(scales) == pytest.approx(0.05, rel=0.4)
    assert shoot(settings, number=3).charge.mean() == pytest.approx(25_000 * scales[3], rel=1e-5)


# ---- charge ----------------------------------------------------------------------------------
def test_dark_current_and_hot_pixels_grow_with_dark_time():
    settings = only("dark_current", "hot_pixels", recipe="dark", **{"hot_pixels.density": 2000})
    frame = shoot(settings, "dark", time=600)
    dark, (y, x, rate) = frame.static.dark, frame.static.hot
    seconds = frame.info.dark_time
    quiet = frame.static.mask == 0
    expected = dark[quiet].sum() * seconds
    assert frame.charge[quiet].sum() == pytest.approx(expected, abs=4 * float(np.sqrt(expected)))
    assert dark[0, 0] == pytest.approx(0.04, rel=0.1)
    hot = rate * seconds + dark[y, x] * seconds
    assert abs((frame.charge[y, x] - hot) / np.sqrt(hot)).max() < 5
    assert rate.size > 20
    assert rate.min() >= 5
    assert rate.max() <= 2000


def test_bad_columns_leak_or_stay_dark_away_from_the_register():
    settings = only("bad_columns", "lamp", **{"bad_columns.density": 60, "lamp.scatter": 0})
    frame = shoot(settings, time=1.0)
    static = frame.static
    assert static.dead
    for first, last, column in static.dead:
        assert (static.mask[first:last, column] & 4).all()
        part = frame.charge[first:last, column][(static.mask[first:last, column] & 2) == 0]
        assert np.allclose(part, 2_500)
        assert last == 120  # registers are below
    bright = (static.mask & 2 > 0) & (static.mask & 4 == 0)
    excess = frame.charge[bright] - 25_000
    assert excess.mean() == pytest.approx(30 * frame.info.dark_time, rel=0.1)


def test_cosmic_rays_leave_their_charge_and_muons_straight_tracks():
    settings = only("cosmic_rays", recipe="dark", **{"cosmic_rays.rate": 200})
    frame = shoot(settings, "dark", time=100)
    hits = frame.facts["cosmic_rays"]
    expected = 200 * 120 * 200 * 1e-6 * (frame.info.dark_time + 1)
    assert abs(len(hits) - expected) < 5 * np.sqrt(expected)
    total = sum(hit["charge"] for hit in hits)
    assert 0.9 * total < frame.charge.sum() <= total * 1.001
    muons = [h for h in hits if h["kind"] == "muon"]
    assert 0.6 < len(muons) / len(hits) < 0.8
    lengths = np.hypot([m["dx"] for m in muons], [m["dy"] for m in muons])
    assert 2 < np.median(lengths) < 12
    per_micrometre = [
        m["charge"] / np.hypot(length * 10, 100) for m, length in zip(muons, lengths, strict=True)
    ]
    assert np.median(per_micrometre) == pytest.approx(80, rel=0.15)
    track = shoot(only("cosmic_rays", recipe="dark", **{"cosmic_rays.rate": 0.05}), "dark", 40)
    for hit in track.facts["cosmic_rays"]:
        ys, xs = np.nonzero(track.charge)
        near = np.hypot(xs - hit["x"] - hit["dx"] / 2, ys - hit["y"] - hit["dy"] / 2)
        assert near.min() < np.hypot(hit["dx"], hit["dy"]) / 2 + 3


# ---- switches, seeds -------------------------------------------------------------------------
CHANGES = {
    "stars.density": 1000,
    "donuts.density": 200,
    "bad_columns.density": 60,
    "hot_pixels.density": 1000,
    "cosmic_rays.rate": 20,
    "bias_level.mean": 5000,
    "lamp.rate": 500,
    "adc.maximum": 16_000,
    "stars.low": 20_000,
    "saturation.full_well": 15_000,
}


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_switch_does_something_and_leaves_other_dice_alone(effect):
    base = tuple(name for name in EFFECTS if name != effect)
    off = shoot(only(*base, recipe="science", **CHANGES), "science", time=20)
    on = shoot(only(*EFFECTS, recipe="science", **CHANGES), "science", time=20)
    assert effect in on.facts["effects"]
    assert effect not in off.facts["effects"]
    assert any((on.segments[name] != off.segments[name]).any() for name in "AB")
    shared = set(on.facts) & set(off.facts) - {"effects", "electrons_lost", "sky", effect}
    assert {key: on.facts[key] for key in shared} == {key: off.facts[key] for key in shared}
    if effect != "row_drift":
        assert all((on.row_level[name] == off.row_level[name]).all() for name in "AB")
    if effect in {"dark_current", "stars", "cti", "crosstalk", "saturation"}:
        assert (on.static.bias == off.static.bias).all()


def test_the_same_seed_is_the_same_frame_and_another_is_not():
    settings = settings_for("science", {"stars.density": 1000})
    first, again = (shoot(settings, "science", time=10) for _ in range(2))
    assert all((first.segments[name] == again.segments[name]).all() for name in "AB")
    assert first.facts == again.facts
    later = shoot(settings, "science", time=10, number=1)
    assert (later.segments["A"] != first.segments["A"]).any()
    assert (later.static.bias == first.static.bias).all()
    other = shoot(settings, "science", time=10, seed=2)
    assert (other.static.bias != first.static.bias).mean() > 0.9
    assert other.static.level != first.static.level


def test_uint16_cameras_keep_their_range():
    info = plan(BENCH, "flat", [FIRST], settings=settings_for("flat"), seed=1, times=[9.0])[0]
    frame = simulate_frame(BENCH, info, 0, settings_for("flat"), 1, "uint16")
    assert frame.segments["A"].dtype == np.uint16
    assert frame.static.maximum == 65_535
    assert frame.segments["A"].max() == 65_535
    assert frame.static.level["A"] < 8_000


# ---- options and plans -----------------------------------------------------------------------
def test_options_are_converted_and_mistakes_named():
    settings = settings_for("bias", {"cti.cti": "3e-6", "adc.maximum": "none", "cti.on": "true"})
    assert settings.cti.cti == 3e-6
    assert settings.cti.on
    assert settings.adc.maximum is None
    with pytest.raises(UnknownNameError, match="crosstalk"):
        settings_for("bias", {"crostalk.on": False})
    with pytest.raises(UnknownNameError, match="drift_scale"):
        settings_for("bias", {"cti.driftscale": 1})
    with pytest.raises(ConfigError, match=r"cti\.cti"):
        settings_for("bias", {"cti.cti": "2"})
    with pytest.raises(UnknownNameError, match="science"):
        settings_for("sience")


def test_every_option_says_what_it_is():
    for recipe in RECIPES:
        for effect, option, _, text in describe(settings_for(recipe)):
            assert text, (effect, option)


def test_plans_deal_times_and_filters_in_blocks():
    class Filters(Bench):
        filters = ("empty", "r", "g")

    settings = settings_for("flat")
    infos = plan(
        Filters(), "flat", range(FIRST, FIRST + 8), settings=settings, seed=1, times=[1, 2],
        filters=["r", "g"],
    )  # fmt: skip
    assert [(i.physical_filter, i.exposure_time) for i in infos] == [
        ("r", 1), ("r", 1), ("r", 2), ("r", 2), ("g", 1), ("g", 1), ("g", 2), ("g", 2)
    ]  # fmt: skip
    pairs = plan(Filters(), "ptc", range(FIRST, FIRST + 6), settings=settings, seed=1)
    times = [i.exposure_time for i in pairs]
    assert times[0::2] == times[1::2] == sorted(times[0::2])
    assert times[-1] * 25_000 > 120_000 * 1.2
    assert {i.observation_type for i in pairs} == {"flat"}
    assert all(a.begin < b.begin for a, b in itertools.pairwise(infos))
    bias: ExposureInfo = plan(Filters(), "bias", [FIRST], settings=settings, seed=1)[0]
    assert (bias.day_obs, bias.seq_num, bias.target_name) == (20210120, 19, "Park position")
    assert bias.exposure_time == 0
    assert 0 < bias.dark_time < 0.1
    assert bias.physical_filter == "empty"
    Filters.default_filter = "r"
    chosen = plan(Filters(), "flat", [FIRST], settings=settings, seed=1)[0]
    assert chosen.physical_filter == "r"


@pytest.mark.parametrize(
    ("recipe", "ids", "options", "message"),
    [
        ("bias", [FIRST, FIRST], {}, "twice"),
        ("bias", [FIRST], {"times": [3.0]}, "no exposure time"),
        ("flat", [FIRST], {"times": [-3.0]}, "between"),
        ("ptc", [FIRST], {}, "pairs"),
        ("flat", [FIRST], {"filters": ["q"]}, "no filter 'q'"),
        ("bias", [42], {}, "no date"),
        ("bias", [2021013200019], {}, "no date"),
        ("bias", [2021012099999], {}, "fit into its day"),
    ],
)
def test_impossible_plans_are_refused(recipe, ids, options, message):
    from cpplug.api import UsageError

    class Filters(Bench):
        filters = ("empty", "r")

    with pytest.raises(UsageError, match=message):
        plan(Filters(), recipe, ids, settings=settings_for(recipe), seed=1, **options)


def test_boxes_of_the_bench_are_what_the_tests_assume():
    amplifier = BENCH.camera.detectors[0].amplifiers[0]
    assert amplifier.data == Box(4, 0, 100, 120)
