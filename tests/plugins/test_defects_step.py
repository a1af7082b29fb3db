"""Known defects are marked, and only they."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpplug.api import (
    Amplifier,
    Box,
    DataError,
    Detector,
    Exposure,
    NoConfig,
    TableProduct,
    mask_bits,
)
from cpplug_defects import DefectsConfig, mask_defects
from cpplug_isr.assemble import assemble

BAD = mask_bits("BAD")


class Found:
    def __init__(self, boxes: list[tuple[int, int, int, int]]) -> None:
        columns = np.array(boxes, dtype=np.int32).reshape(-1, 4).T
        self.product = TableProduct(
            columns=dict(zip(("x0", "y0", "width", "height"), columns, strict=True))
        )

    def table(self, dataset_type: str) -> TableProduct:
        assert dataset_type == "defects"
        return self.product


@pytest.fixture
def exposure(two_amplifiers):
    return assemble(two_amplifiers(), NoConfig(), None)


def test_boxes_are_trimmed_x_and_y(exposure) -> None:
    exposure.mask[0, 0] = mask_bits("SAT")
    mask_defects(exposure, DefectsConfig(), Found([(8, 1, 2, 3), (8, 1, 1, 1), (0, 6, 1, 1)]))
    assert np.argwhere(exposure.mask & BAD).tolist() == [
        [1, 8], [1, 9], [2, 8], [2, 9], [3, 8], [3, 9], [6, 0],
    ]  # fmt: skip
    assert exposure.mask[0, 0] == mask_bits("SAT")
    assert exposure.measured("defect_pixels") == 7


@pytest.mark.parametrize("box", [(-1, 0, 2, 2), (9, 0, 2, 1), (0, 6, 1, 2), (3, 3, 0, 1)])
def test_a_box_off_the_detector_is_refused(exposure, box) -> None:
    with pytest.raises(DataError, match=rf"x {box[0]}, y {box[1]}.* detector twin, 10 x 7"):
        mask_defects(exposure, DefectsConfig(), Found([box]))
    assert not exposure.mask.any(), "nothing is marked when the list is wrong"


def test_a_table_without_its_columns_is_refused(exposure) -> None:
    found = Found([(0, 0, 1, 1)])
    del found.product.columns["width"]
    with pytest.raises(DataError, match="no column width"):
        mask_defects(exposure, DefectsConfig(), found)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 5), st.integers(1, 5)),
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_exactly_the_union_of_the_boxes_is_marked(boxes) -> None:
    amp = Amplifier(
        name="A", source=(Box(0, 0, 14, 14),), data=Box(0, 0, 14, 14), bbox=Box(0, 0, 14, 14)
    )
    detector = Detector(id=0, name="one", amplifiers=(amp,), width=14, height=14)
    exposure = Exposure(None, detector, np.zeros((14, 14), np.float32))
    mask_defects(exposure, DefectsConfig(), Found(boxes))
    inside = {
        (y, x) for x0, y0, w, h in boxes for y in range(y0, y0 + h) for x in range(x0, x0 + w)
    }
    assert {tuple(p) for p in np.argwhere(exposure.mask & BAD).tolist()} == inside
