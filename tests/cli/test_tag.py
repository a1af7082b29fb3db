"""``cpplug tag``: a TAGGED collection is searched like a RUN."""

from __future__ import annotations


def test_a_tagged_product_is_found_and_can_be_taken_out(built) -> None:
    product = built.products()[0]
    built("tag", "u/me/best", product["sha256"][:12])
    row = next(
        r for r in built("collections", "--format", "json").rows if "best" in r["collection"]
    )
    assert row["kind"] == "TAGGED" and row["holds"] == "1 bias"
    found = built(
        "which", "bias", "--exposure", "2021012000025", "--detector", "0", "-i", "u/me/best",
        "--format", "json",
    ).rows[0]  # fmt: skip
    assert found["id"] == product["id"] and found["collection"] == "u/me/best"
    built("tag", "u/me/best", product["id"], "--remove")
    assert built.refuses(
        5, "which", "bias", "--at", "2021-01-20", "--detector", "0", "-i", "u/me/best"
    )


def test_words_that_name_no_product(built) -> None:
    assert "ffffffff" in built.refuses(2, "tag", "u/me/best", "ffffffff")
