"""The where language: what it accepts, what it means, and how it complains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpplug.api.errors import UnknownNameError, UsageError, WhereSyntaxError
from cpplug.store.fields import exposure_fields
from cpplug.store.where import compile_where

LATISS = {"instrument": "LATISS"}


def seqs(shelf, where, **options):
    """Return the sequence numbers of the first night's exposures that fit."""
    found = shelf.exposures(f"day_obs = 20210120 AND ({where})", **(LATISS | options))
    return [info.seq_num for info in found]


def test_empty_means_all(shelf):
    assert shelf.count_exposures("") == 406
    assert shelf.count_exposures("  \n ", instrument="LATISS") == 400


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("seq_num = 3", [3]),
        ("seq_num == 3", [3]),
        ("exposure.seq_num=3", [3]),
        ("exposure = 2021012000003", [3]),
        ("exposure.id = 2021012000003", [3]),
        ("seq_num != 3 AND seq_num <> 4 AND seq_num < 6", [0, 1, 2, 5]),
        ("seq_num <= 1 OR seq_num >= 18 AND seq_num > 18", [0, 1, 19]),
        ("NOT seq_num < 18", [18, 19]),
        ("NOT seq_num = 18 AND seq_num > 17", [19]),
        ("not (seq_num = 18 AND seq_num > 17) and seq_num >= 17", [17, 19]),
        ("observation_type = 'flat' And seq_num < 8", [2, 6]),
        ('observation_type = "flat" and seq_num < 8', [2, 6]),
        ("observation_type = 'Flat'", []),
        ("obs_id = 'AT_O_20210120_000004'", [4]),
        # lists and ranges
        ("seq_num IN (1, 3, 5)", [1, 3, 5]),
        ("seq_num IN (1, 3, 5,)", [1, 3, 5]),
        ("seq_num IN (7)", [7]),
        ("seq_num IN (-1, 7)", [7]),
        ("seq_num IN (3..6)", [3, 4, 5, 6]),
        ("seq_num IN (-2..12:5)", [3, 8]),
        ("seq_num IN (1, 5..9:2, 15 .. 16, 19)", [1, 5, 7, 9, 15, 16, 19]),
        ("seq_num NOT IN (0..17)", [18, 19]),
        ("seq_num IN (1, 2.0, 2.5)", [1, 2]),
        ("observation_type IN ('bias', 'dark') AND seq_num < 6", [0, 1, 4, 5]),
        ("exposure_time IN (0) AND seq_num < 6", [0, 4]),
        ("exposure IN (2021012000001, \\\n  2021012000002, \\\n\t2021012000003)", [1, 2, 3]),
        ("seq_num IN (1, \\\n 2) \\\n", [1, 2]),
        # NULL
        ("temperature = NULL AND seq_num < 8", [1, 5]),
        ("temperature IS NULL AND seq_num < 8", [1, 5]),
        ("temperature != NULL AND seq_num < 3", [0, 2]),
        ("temperature IS NOT NULL AND seq_num < 3", [0, 2]),
        ("temperature IN (NULL) AND seq_num < 8", [1, 5]),
        # arithmetic
        ("seq_num % 7 = 2", [2, 9, 16]),
        ("seq_num * 2 + 1 = 7", [3]),
        ("seq_num - 3 * 2 = -4", [2]),
        ("(seq_num - 3) * 2 = -4", [1]),
        ("seq_num / 2 = 1.5", [3]),
        ("exposure_time * 2 > 59 AND seq_num < 4", [1, 2, 3]),
        ("exposure_time / 0 > 1", []),
        ("seq_num % 0 = 1", []),
        ("+seq_num = - -5", [5]),
        ("exposure_time = .3e2 AND seq_num < 2", [1]),
        ("exposure_time = 30. AND seq_num < 2", [1]),
        # times; without a scale they are TAI
        ("timespan.begin = T'2021-01-20T18:03:00'", [3]),
        ("exposure.timespan.end > t'2021-01-20 18:18:59.5'", [19]),
        ("timespan.begin = T'2021-01-20T18:02:23Z'", [3]),
        ("timespan.begin = T'2021-01-20T18:02:23/utc'", [3]),
        ("timespan.begin = T'2021-01-20T18:03:00/tai'", [3]),
        ("timespan.begin >= T'59234.7625' AND timespan.begin <= T'mjd/59234.7626'", [18]),
        ("timespan.begin = T'2021:020:18:03:00'", [3]),
        ("timespan.begin = T'unix/1611165743'", [3]),
        ("timespan.begin = T'unix/1611165780/tai'", [3]),
        ("timespan.begin = T'cxcsec/727553012.184'", [3]),
        ("timespan.begin = T'jd/2459235.2625'", [18]),
        ("timespan OVERLAPS (T'2021-01-20T18:03:00', T'2021-01-20T18:05')", [3, 4]),
        ("(T'2021-01-20T18:03:00', T'2021-01-20T18:05') OVERLAPS exposure.timespan", [3, 4]),
        ("timespan OVERLAPS (T'2021-01-20T18:17', NULL)", [17, 18, 19]),
        ("timespan OVERLAPS (NULL, T'2021-01-20T18:02')", [0, 1]),
        ("timespan OVERLAPS T'2021-01-20T18:03:29'", [3]),
        ("timespan OVERLAPS T'2021-01-20T18:03:30'", []),
        ("timespan OVERLAPS T'2021-01-20T18:04'", [4]),  # a bias is an instant
        ("timespan OVERLAPS timespan AND seq_num < 2", [0, 1]),
        # added: BETWEEN, LIKE, GLOB, booleans, date text
        ("seq_num BETWEEN 3 AND 5", [3, 4, 5]),
        ("seq_num NOT BETWEEN 1 AND 18", [0, 19]),
        ("obs_id LIKE 'AT%00_'", [*range(10)]),
        ("obs_id NOT LIKE '%00_'", [*range(10, 20)]),
        ("obs_id LIKE 'at%'", []),
        ("GLOB(obs_id, '*00?')", [*range(10)]),
        ("GLOB(obs_id, 'AT_O_2021[01]*')", []),
        ("GLOB(target_name, '*%*')", []),
        ("NOT GLOB(obs_id, '*00?') AND seq_num < 12", [10, 11]),
        ("TRUE AND seq_num = 1", [1]),
        ("FALSE OR seq_num = 1", [1]),
        ("1=1 AND seq_num = 1", [1]),
        ("'a' = 'b'", []),
        ("day_obs = '2021-01-20' AND seq_num = 2", [2]),
        ("day_obs = '20210120' AND seq_num = 2", [2]),
        ("day_obs IN ('2021-01-20', 20210121) AND seq_num = 2", [2]),
        ("day_obs BETWEEN '2021-01-19' AND '2021-01-20' AND seq_num = 2", [2]),
        ("group = 'g4'", [4]),
        ("obs_id = UUID('AT_O_20210120_000004')", []),
        ("serial_binning = 1 AND seq_num = 1", [1]),
    ],
)
def test_expression(shelf, where, expected):
    assert seqs(shelf, where) == expected


def test_a_backslash_may_end_the_text(shelf):
    found = shelf.exposures("day_obs = 20210120 AND seq_num IN (1) \\ \n", **LATISS)
    assert [info.seq_num for info in found] == [1]


def test_day_ranges_with_step(shelf):
    found = shelf.exposures("day_obs IN (20210120..20210131:5) AND seq_num = 0", **LATISS)
    assert [info.day_obs for info in found] == [20210120, 20210125, 20210130]


def test_quotes_are_doubled(shelf):
    assert shelf.count_exposures("instrument='Mosaic' AND target_name = 'it''s'") == 6
    assert shelf.count_exposures("instrument='Mosaic' AND target_name = \"it's\"") == 6


def test_values_never_become_sql(shelf):
    assert shelf.count_exposures("target_name = 'x'' OR 1=1 --'", **LATISS) == 0
    assert shelf.count_exposures("target_name = :t", binds={"t": "' OR 1=1 --"}, **LATISS) == 0


@pytest.mark.parametrize(("by", "n"), [("0", 6), ("1", 4), ("3", 1), ("'S03'", 1), ("'S00'", 6)])
def test_detector_asks_for_its_raw_frame(shelf, by, n):
    assert shelf.count_exposures(f"instrument='Mosaic' AND detector = {by}") == n


@pytest.mark.parametrize(
    ("where", "n"),
    [
        ("detector IN (1, 3)", 4),
        ("detector IN ('S01', 'S03')", 4),
        ("detector IN (3, 'S02')", 2),
        ("detector IN (2..3)", 2),
        ("detector >= 1 AND detector <= 1", 4),  # one raw frame fits both
        ("detector > 1 AND detector < 1", 0),
        ("detector = 0 OR seq_num = 1", 6),
        ("detector LIKE 'S%3'", 1),
        ("detector.name = 'S03'", 1),
        ("detector.id = 3", 1),
        ("detector = 'S99'", 0),
        ("detector = :d", 1),
        ("detector = :name", 1),
        ("detector IN (:list)", 4),
    ],
)
def test_detector_conditions(shelf, where, n):
    binds = {"d": "3", "name": "S03", "list": ["1", "S03"]}
    assert shelf.count_exposures(where, instrument="Mosaic", binds=binds) == n


def test_binds(shelf):
    assert seqs(shelf, "seq_num IN (:some)", binds={"some": [2, 4]}) == [2, 4]
    assert seqs(shelf, "seq_num IN (some)", binds={"some": (2, 4)}) == [2, 4]
    assert seqs(shelf, "seq_num IN (:a, 7, :b)", binds={"a": 2, "b": {4}}) == [2, 4, 7]
    assert seqs(shelf, "seq_num = :a", binds={"a": "5"}) == [5]
    assert seqs(shelf, "seq_num IN (:a)", binds={"a": "1, 3..5"}) == [1, 3, 4, 5]
    assert seqs(shelf, "seq_num IN (:a)", binds={"a": [1, "3..5"]}) == [1, 3, 4, 5]
    assert seqs(shelf, "timespan.begin = :t", binds={"t": "2021-01-20T18:03"}) == [3]
    assert seqs(shelf, "timespan OVERLAPS :t", binds={"t": "2021-01-20T18:03"}) == [3]
    assert seqs(shelf, "temperature = :x AND seq_num < 8", binds={"x": None}) == [1, 5]
    assert seqs(shelf, "day_obs = :d AND seq_num = 1", binds={"d": "2021-01-20"}) == [1]
    assert seqs(shelf, "observation_type IN (:k) and seq_num<4", binds={"k": ["bias"]}) == [0]
    assert seqs(shelf, "seq_num IN (:none)", binds={"none": []}) == []
    assert seqs(shelf, "exposure_time > :x AND seq_num < 2", binds={"x": 0.5}) == [1]


def test_file_of_ids(shelf, tmp_path):
    file = tmp_path / "good ones.txt"
    file.write_text(
        "# nights\n2021012000001, 2021012000003 # two\n2021012000005..2021012000007:2\n"
    )
    assert seqs(shelf, f"exposure IN (@'{file}')") == [1, 3, 5, 7]
    plain = tmp_path / "ids.txt"
    plain.write_text("2021012000001\n2021012000003, \\\n2021012000004\n")
    assert seqs(shelf, f"exposure IN (@{plain}, 2021012000008)") == [1, 3, 4, 8]
    words = tmp_path / "names.txt"
    words.write_text("NGC 4755\n'Park position'\n")
    assert len(seqs(shelf, f"target_name IN (@{words})")) == 20
    with pytest.raises(WhereSyntaxError, match="cannot be read: no such file"):
        seqs(shelf, f"exposure IN (@{tmp_path}/nothing.txt)")
    plain.write_text("# none\n")
    with pytest.raises(WhereSyntaxError, match="holds no values"):
        seqs(shelf, f"exposure IN (@{plain})")
    plain.write_text("2021012000001 x7\n")
    with pytest.raises(WhereSyntaxError, match="is not a number"):
        seqs(shelf, f"exposure IN (@{plain})")


@pytest.mark.parametrize("n", [60, 2_000, 20_000])
def test_long_lists(shelf, n):
    ids = range(2021012000000, 2021012000000 + n)
    text = ", ".join(map(str, ids))
    assert shelf.count_exposures(f"exposure IN ({text})", **LATISS) == 20
    assert shelf.count_exposures("exposure IN (:ids)", binds={"ids": ids}, **LATISS) == 20
    assert shelf.count_exposures(f"exposure NOT IN ({text})", **LATISS) == 380


@pytest.mark.parametrize(
    ("where", "caret", "message", "hint"),
    [
        ("seq_nun = 1", 1, "no field 'seq_nun'", "'seq_num'"),
        ("seq_num=1 AND exposure.observaton_type='bias'", 15, "no field", "'exposure.observation"),
        ("1 < seq_num < 4", 13, "'<' is out of place", "BETWEEN"),
        ("seq_num = 'a'", 9, "cannot be compared", "without quotes"),
        ("target_name = 4", 13, "cannot be compared", "without quotes"),
        ("timespan.begin = '2021-01-20'", 16, "cannot be compared", "T'2021"),
        ("timespan < T'2021-01-20'", 10, "cannot be compared", "OVERLAPS"),
        ("timespan OVERLAPS 5", 19, "OVERLAPS takes time spans", "T'2021"),
        ("timespan OVERLAPS (T'2021-01-21', T'2021-01-20')", 19, "before it ends", ""),
        ("target_name = 'a", 15, "quote is not closed", "closing"),
        ("seq_num =", 10, "ends too early", ""),
        ("seq_num = 1 2", 13, "'2' is out of place", "AND, OR"),
        ("seq_num IN (9..0)", 13, "is empty", "first..last"),
        ("seq_num IN (1..9:0)", 13, "is empty", "step"),
        ("seq_num IN ()", 13, "')' is out of place", "value"),
        ("seq_num = 1..4", 13, "out of place", "IN"),
        ("target_name IN (1..4)", 17, "Ranges fit whole numbers", ""),
        ("seq_num IN (exposure)", 13, "IN takes values, not fields", "OVERLAPS"),
        ("seq_num", 1, "A whole number alone is not a condition", "Compare"),
        ("seq_num = :x", 11, "No value was given for :x", "--bind x="),
        ("POINT(1, 2)", 1, "no function 'POINT'", "GLOB"),
        ("GLOB(seq_num, 'a')", 1, "Patterns compare", ""),
        ("timespan.begin = T'yesterday'", 18, "is not a date or time", "2021-07-15"),
        ("day_obs = 'monday'", 11, "is not an observing day", "20210120"),
        ("seq_num = 1 & seq_num = 2", 13, "'&' cannot be read here", "AND"),
        ("exposure IN ($EXPOSURES)", 14, "'$' cannot be read here", "double quotes"),
        ("seq_num < NULL", 9, "Nothing is < NULL", "!= NULL"),
        ("exposure = 99999999999999999999", 12, "too large", ""),
        ("target_name % 2 = 1", 13, "does not work with text", ""),
        ("exposure_time % 2 = 1", 15, "whole numbers only", ""),
        ("TRUE < FALSE", 6, "Conditions are not compared with <", "="),
        ("(seq_num, 1)", 1, "belongs after OVERLAPS", ""),
    ],
)
def test_complaints_point_at_the_place(shelf, where, caret, message, hint):
    with pytest.raises(WhereSyntaxError) as caught:
        shelf.exposures(where, **LATISS)
    text, *_, line = caught.value.message.rstrip("\n").split("\n")
    assert message in text
    assert line.index("^") - 2 == caret - 1
    assert hint in caught.value.next_step
    assert caught.value.exit_code == 2


def test_caret_in_a_long_expression_stays_in_sight(shelf):
    ids = ", ".join(map(str, range(2021012000000, 2021012000100)))
    with pytest.raises(WhereSyntaxError) as caught:
        shelf.exposures(f"exposure IN ({ids}) AND seq_nun = 1", **LATISS)
    _, shown, caret = caught.value.message.rstrip("\n").split("\n")
    assert len(shown) < 140
    assert shown[caret.index("^") :].startswith("seq_nun")


def test_caret_on_a_later_line(shelf):
    with pytest.raises(WhereSyntaxError) as caught:
        shelf.exposures("seq_num = 1\n  AND nothing = 2", **LATISS)
    _, shown, caret = caught.value.message.rstrip("\n").split("\n")
    assert shown.strip() == "AND nothing = 2"
    assert shown[caret.index("^") :].startswith("nothing")


@pytest.mark.parametrize(
    "where",
    [
        "exposure = 1",
        "detector = 0",
        "day_obs = 20210120",
        "physical_filter = 'a'",
        "group = 'g'",
        "obs_id = 'x'",
        "instrument = 'LATISS' OR exposure = 1",
        "(instrument = 'LATISS' AND exposure = 1) OR day_obs = 20210120",
        "NOT instrument = 'LATISS' AND exposure = 1",
        "instrument != 'LATISS' AND exposure = 1",
    ],
)
def test_ids_need_an_instrument(shelf, where):
    with pytest.raises(WhereSyntaxError, match="means nothing without an instrument"):
        shelf.exposures(where)
    shelf.exposures(where, instrument="LATISS")


@pytest.mark.parametrize(
    "where",
    [
        "observation_type = 'bias' AND seq_num = 1",
        "instrument = 'LATISS' AND exposure = 1",
        "(instrument = 'LATISS' OR instrument = 'Mosaic') AND exposure = 1",
        "instrument IN ('LATISS', 'Mosaic') AND exposure = 1",
        "(instrument='LATISS' AND exposure = 1) OR (instrument='Mosaic' AND exposure = 2)",
    ],
)
def test_ids_with_an_instrument(shelf, where):
    assert isinstance(shelf.count_exposures(where), int)


def test_the_only_instrument_is_meant(repo, facts):
    repo.ingest([facts.raw(1)], "raw/all")
    with pytest.raises(WhereSyntaxError):
        repo.exposures("seq_num = 1 AND day_obs = 20210120")


def test_one_instrument_needs_no_name(backend, tmp_path, facts):
    from cpplug.store import Repository
    from cpplug.store.records import DetectorRow

    if backend != "sqlite":
        pytest.skip("the rule does not depend on the database")
    with Repository.create(tmp_path / "one") as repo:
        repo.register_instrument("LATISS", [DetectorRow(0, "S00")])
        repo.ingest([facts.raw(1)], "raw/all")
        assert repo.count_exposures("exposure = 2021012000001 AND detector = 0") == 1


def test_unknown_instrument(shelf):
    with pytest.raises(UnknownNameError, match="'latiss' is not registered") as caught:
        shelf.exposures(instrument="latiss")
    assert "LATISS" in caught.value.next_step


def test_order_and_limit(shelf):
    found = shelf.exposures("day_obs=20210120", order_by=["-seq_num"], limit=3, **LATISS)
    assert [info.seq_num for info in found] == [19, 18, 17]
    found = shelf.exposures(
        "day_obs=20210120", order_by=["observation_type", "-timespan.begin"], limit=2, **LATISS
    )
    assert [info.seq_num for info in found] == [16, 12]
    with pytest.raises(UnknownNameError, match="cannot be ordered by 'seqnum'") as caught:
        shelf.exposures(order_by=["seqnum"], **LATISS)
    assert "seq_num" in caught.value.next_step
    with pytest.raises(UsageError):
        shelf.exposures(order_by=["detector"], **LATISS)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    """Whatever is typed, the answer is a condition or a WhereSyntaxError, never a crash."""
    try:
        compile_where(text, exposure_fields(), "sqlite")
    except WhereSyntaxError as error:
        assert "^" in error.message


_WORDS = (
    "seq_num exposure detector target_name timespan T'2021-01-20' 'a' 3 2.5 NULL TRUE ( ) , AND OR "
    "NOT IN = != < OVERLAPS BETWEEN LIKE IS + - * / % 1..3 :x @f GLOB UUID day_obs"
)


@given(st.lists(st.sampled_from(_WORDS.split()), max_size=9))
def test_any_words_are_read_or_refused(words):
    try:
        compile_where(" ".join(words), exposure_fields(), "postgresql", {"x": [1, "b"]})
    except WhereSyntaxError as error:
        assert "^" in error.message
