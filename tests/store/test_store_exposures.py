"""Raw exposures: ingest, the seeds' own selections, files, and why nothing matched."""

import re
from pathlib import Path

import pytest

from cpplug.api.errors import UnknownNameError, UsageError
from cpplug.api.times import parse_time
from cpplug.store.records import DetectorRow

SEEDS = Path(__file__).resolve().parents[2].parent / "shared" / "seeds"

# The selections of the user's own documents, verbatim, line ends and all.
SEED_BIAS = """instrument='LATISS' AND exposure.observation_type='bias' \\
                 AND exposure.target_name='Park position' \\
                 AND exposure.exposure_time=0.0 AND exposure.dark_time < 0.1 \\
                 AND exposure.day_obs > 20210101"""
SEED_DARK = (
    "instrument='LATISS' AND exposure.observation_type='dark' "
    "AND exposure.exposure_time > 0.0 AND exposure.dark_time > 0.0 AND exposure.day_obs > 20210101"
)
SEED_CROSSTALK = """instrument='LATISS' AND exposure.observation_type='science'
                  AND exposure.exposure_time > 0.0
                  AND exposure.target_name = 'NGC 4755'
                  AND exposure.day_obs = 20210218"""
SEED_SKY = """instrument='LATISS' AND exposure.observation_type='science' \\
                 AND exposure.exposure_time > 0.0 AND exposure.day_obs = 20210323 \\
                 AND physical_filter = 'RG610~empty'"""
SEED_SKY_1 = (
    "instrument='LATISS' AND exposure.observation_type='science' AND exposure.exposure_time > 0.0 "
    "AND exposure.day_obs = 20210323 and physical_filter = 'RG610~empty'"
)
SEED_IDS = """2021012000020, 2021012000032, 2021012000055, 2021012000061, 2021012100060, \\
               2021012100134, 2021012100188, 2021012100229, 2021012700032, 2021012700037, \\
               2021012700038, 2021012700052, 2021012700119, 2021012700842, 2021012700900, \\
               2021012700926, 2021020100022, 2021020100032, 2021020100036, 2021020100047, \\
               2021020100049, 2021020100335, 2021020100344, 2021020100369, 2021030500009, \\
               2021030500015, 2021030500019, 2021030500023, 2021030500032, 2021030500046, \\
               2021031100028, 2021031100032, 2021031100036, 2021031100037, 2021031100041, \\
               2021031100045, 2021031100048, 2021060900011, 2021060900026, 2021060900038, \\
               2021060900039, 2021060900042, 2021060900048, 2021060900049, 2021012000037, \\
               2021012000059, 2021012000063, 2021012100078, 2021012700061, 2021012700423, \\
               2021012700701, 2021020100072, 2021020100329, 2021020100375, 2021030500005, \\
               2021030500026, 2021030500050, 2021031100004, 2021031100005, 2021031100010"""


def seed_night(facts, exposure, **changes):
    """Return a raw frame with an id of the seeds."""
    day, seq = divmod(exposure, 100_000)
    begin = parse_time(f"{day}T1200") + seq * 60 * 10**9
    base = {
        "exposure": exposure, "day_obs": day, "seq_num": seq, "obs_id": f"AT_{exposure}",
        "begin": begin, "end": begin, "observation_type": "bias", "exposure_time": 0.0,
        "dark_time": 0.03, "target_name": "Park position",
    }  # fmt: skip
    return facts.raw(0, **(base | changes))


@pytest.fixture
def seeded(repo, facts):
    """The exposures of the seeds' final bias sample, and some that its query must not find."""
    ids = [int(word) for word in re.findall(r"\d+", SEED_IDS)]
    assert len(set(ids)) == 60
    raws = [seed_night(facts, number) for number in ids]
    odd = {
        2020123100001: {},
        2021012000901: {"observation_type": "dark", "exposure_time": 30.0, "dark_time": 30.1},
        2021012000902: {"target_name": "Sky"},
        2021012000903: {"dark_time": 0.2},
        2021012000904: {"exposure_time": 0.5},
    }
    science = {
        "observation_type": "science",
        "exposure_time": 20.0,
        "physical_filter": "RG610~empty",
    }
    odd |= {2021032300284: science, 2021032300285: science | {"physical_filter": "empty~empty"}}
    odd |= {2021021800007: science | {"target_name": "NGC 4755"}}
    repo.ingest(raws + [seed_night(facts, n, **c) for n, c in odd.items()], "LATISS/raw/all")
    repo.seed_ids = sorted(ids)
    return repo


def test_seed_selections_run_unchanged(seeded):
    assert [i.exposure for i in seeded.exposures(SEED_BIAS)] == seeded.seed_ids
    assert [i.exposure for i in seeded.exposures(SEED_DARK)] == [2021012000901]
    assert [i.exposure for i in seeded.exposures(SEED_CROSSTALK)] == [2021021800007]
    assert [i.exposure for i in seeded.exposures(SEED_SKY)] == [2021032300284]
    assert [i.exposure for i in seeded.exposures(SEED_SKY_1)] == [2021032300284]


@pytest.mark.parametrize(
    "where",
    [
        "instrument='LATISS' AND detector=0 AND exposure IN ({0})",
        "instrument='LATISS' AND detector=0 AND exposure IN ({0}) \\\n",
        "instrument='LATISS' AND detector=0 AND exposure IN ({0}, {0})",
        "instrument='LATISS' AND exposure IN ({0}) AND detector = 0",
    ],
)
def test_seed_lists_of_ids(seeded, where):
    found = seeded.exposures(where.format(SEED_IDS))
    assert [info.exposure for info in found] == seeded.seed_ids


def test_seed_single_exposure(seeded):
    where = "instrument='LATISS' AND exposure=2021012000020 AND detector = 0"
    assert seeded.count_exposures(where) == 1


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the user's documents are not beside the checkout")
def test_every_where_of_the_documents_can_be_read(seeded):
    """Each quoted selection, with the ids put in where the shell would."""
    texts = "".join(file.read_text() for file in sorted(SEEDS.glob("*.txt")))
    found = re.findall(r"(?:--where|-d) \"(instrument=[^\"]*?)\"", texts)
    assert len(found) > 40
    for where in found:
        if " -c " in where or "pipetask" in where:  # a quote is missing in the document
            continue
        expression = re.sub(r"\$\w+", "2021012000020, 2021012000032", where)
        expression = re.sub(r"exposure=2021012000020, \d+", "exposure=2021012000020", expression)
        assert seeded.count_exposures(expression) >= 0


def test_round_trip(repo, facts):
    info = facts.info(3, binning=(2, 4), detector_serial="ITL-1", temperature=-100.25)
    repo.ingest([facts.raw_of(info)], "raw/all")
    assert repo.exposures(instrument="LATISS") == [info]


def test_ingest_outcomes(repo, facts):
    first = [facts.raw(n) for n in range(3)]
    assert [o.status for o in repo.ingest(first, "raw/all")] == ["ingested"] * 3
    outcomes = repo.ingest([*first, facts.raw(3), facts.raw(3)], "raw/all")
    assert [o.status for o in outcomes] == ["present"] * 3 + ["ingested", "present"]
    assert repo.count_exposures() == 4


def test_other_facts_conflict_and_nothing_of_them_is_stored(repo, facts):
    repo.ingest([facts.raw(0)], "raw/all")
    wrong = facts.raw(0, exposure_time=5.0, physical_filter="g", temperature=-1.0)
    fine = facts.raw(1)
    outcome, other = repo.ingest([wrong, fine], "raw/all")
    assert (outcome.status, other.status) == ("conflict", "ingested")
    assert "exposure_time is 0.0, here 5.0" in outcome.reason
    assert "physical_filter is 'empty~empty', here 'g'" in outcome.reason
    assert "temperature" not in outcome.reason  # may differ between detectors
    assert repo.exposures("seq_num = 0") == [facts.info(0)]


def test_times_in_conflict_are_dates(repo, facts):
    repo.ingest([facts.raw(0)], "raw/all")
    info = facts.info(0)
    (outcome,) = repo.ingest([facts.raw(0, end=info.end + facts.DAY)], "raw/all")
    assert "end is 2021-01-20T18:00:00 TAI, here 2021-01-21T18:00:00 TAI" in outcome.reason


def test_other_pixels_conflict(repo, facts):
    repo.ingest([facts.raw_of(facts.info(0), sha="a" * 64, path="/one.fits")], "raw/all")
    again = facts.raw_of(facts.info(0), sha="b" * 64, path="/two.fits")
    (outcome,) = repo.ingest([again], "raw/all")
    assert outcome.status == "conflict"
    assert "/one.fits" in outcome.reason
    assert "aaaaaaaaaaaa" in outcome.reason
    assert repo.raw_paths("LATISS", 0, [facts.info(0).exposure]).popitem()[1].sha256 == "a" * 64


def test_conflicts_within_one_call(repo, facts):
    twice = [facts.raw(0), facts.raw(0, exposure_time=1.0)]
    assert [o.status for o in repo.ingest(twice, "raw/all")] == ["ingested", "conflict"]


def test_detectors_of_one_exposure_come_in_several_files(repo, facts):
    info = facts.info(0, instrument="Mosaic", detector_serial="A")
    other = facts.info(0, instrument="Mosaic", detector_serial="B", temperature=-80.0)
    raws = [
        facts.raw_of(info, (0,), sha="a" * 64),
        facts.raw_of(other, (1, 2), sha="b" * 64),
        facts.raw_of(other, (2, 3), sha="b" * 64),
    ]
    assert [o.status for o in repo.ingest(raws, "raw/all")] == ["ingested"] * 3
    assert repo.count_exposures() == 1
    files = {d: repo.raw_paths("Mosaic", d, [info.exposure]) for d in range(4)}
    assert [files[d][info.exposure].sha256[0] for d in range(4)] == ["a", "b", "b", "b"]


def test_unknown_detector_or_instrument(repo, facts):
    (outcome,) = repo.ingest([facts.raw_of(facts.info(0), (7,))], "raw/all")
    assert outcome.status == "conflict"
    assert "LATISS has no detector 7" in outcome.reason
    assert repo.collections("raw/*") == []
    with pytest.raises(UnknownNameError, match="'LATIS' is not registered"):
        repo.ingest([facts.raw(0, instrument="LATIS")], "raw/all")
    assert repo.count_exposures() == 0


def test_raws_belong_in_a_run(repo, facts):
    repo.chain("all", [])
    with pytest.raises(UsageError, match="'all' is CHAINED"):
        repo.ingest([facts.raw(0)], "all")
    assert repo.count_exposures() == 0


def test_raw_paths(repo, facts):
    inside = facts.raw_of(facts.info(0), path="raw/all/0.fits")
    outside = facts.raw_of(facts.info(1), path="/data/1.fits")
    repo.ingest([inside, outside], "raw/all")
    ids = [facts.info(n).exposure for n in range(3)]
    files = repo.raw_paths("LATISS", 0, ids)
    assert list(files) == ids[:2]
    assert files[ids[0]].path == repo.root / "raw/all/0.fits"
    assert files[ids[1]].path == Path("/data/1.fits")
    assert files[ids[1]].size == 2880
    assert repo.raw_paths("LATISS", 0, []) == {}


def test_run_counts_and_coverage(repo, facts):
    repo.ingest([facts.raw(n) for n in range(5)], "raw/all")
    row = repo.collection("raw/all")
    assert row.counts == {"raw": 5}
    assert row.coverage == (facts.info(0).begin, facts.info(4).end)


def test_registering_again_updates(repo):
    repo.register_instrument("LATISS", [DetectorRow(0, "RXX_S00", "new"), DetectorRow(1, "b")])
    assert repo.instruments() == ["LATISS", "Mosaic"]
    assert repo.detectors("LATISS") == [DetectorRow(0, "RXX_S00", "new"), DetectorRow(1, "b")]
    with pytest.raises(UnknownNameError, match="'X' is not registered"):
        repo.detectors("X")


def test_explain_empty_names_the_term(seeded):
    where = SEED_BIAS.replace("Park position", "Park positon")
    text = seeded.explain_empty(where)
    lines = text.splitlines()
    assert lines[0] == "68 exposures in the repository"
    assert lines[1].split() == ["68", "left", "after", "instrument='LATISS'"]
    assert "target_name='Park positon'" in lines[3]
    assert "removed all (alone it fits 0)" in lines[3]
    assert lines[4] == "Did you mean 'Park position'?"
    assert len(lines) == 5


def test_explain_empty_when_terms_exclude_each_other(seeded):
    text = seeded.explain_empty(
        "day_obs = 20210323 AND (detector = 0 AND observation_type = 'bias')", instrument="LATISS"
    )
    assert text.splitlines()[-1].endswith("<- removed all (alone it fits 64)")
    assert "2 left after detector = 0" in text


def test_explain_empty_without_exposures(repo):
    assert "holds no exposures of LATISS" in repo.explain_empty("", instrument="LATISS")
