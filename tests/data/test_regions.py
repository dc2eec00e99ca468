import math

import numpy as np
import pandas as pd
import pytest

from gazelit.data.images.geometry import Letterbox
from gazelit.data.images.regions import region_masks


def regions(*rows):
    return pd.DataFrame(rows, columns=["name", "shape", "x1", "y1", "x2", "y2"])


def test_a_box_holds_the_pixels_between_its_corners():
    masks = region_masks(regions(("heart", "box", 3, 5, 9, 12)), Letterbox.fit(32, 32, (32, 32)))
    expected = np.zeros((32, 32), bool)
    expected[5:13, 3:10] = True
    assert np.array_equal(masks["heart"], expected)


def test_regions_go_through_the_letterbox_and_the_coarser_grid():
    # 100 × 200 into 64 × 64 is a scale of 0.32, a little less than a third, with padding above and below.
    letterbox = Letterbox.fit(100, 200, (64, 64))
    mask = region_masks(regions(("left half", "box", 0, 0, 99, 99)), letterbox)["left half"]
    assert np.array_equal(mask, letterbox.valid_mask() & (np.arange(64) < 32))
    coarse = region_masks(regions(("left half", "box", 0, 0, 99, 99)), letterbox, downscale=2)["left half"]
    assert coarse.shape == (32, 32)
    assert np.array_equal(coarse, mask[::2, ::2])


def test_an_ellipse_has_its_area_and_regions_of_one_name_are_united():
    letterbox = Letterbox.fit(400, 300, (400, 300))
    masks = region_masks(
        regions(
            ("nodule", "ellipse", 40, 60, 139, 259), ("nodule", "box", 200, 10, 209, 19), ("dot", "ellipse", 7, 7, 7, 7)
        ),
        letterbox,
    )
    assert masks["nodule"].sum() - 100 == pytest.approx(math.pi * 50 * 100, rel=0.005)
    assert np.argwhere(masks["dot"]).tolist() == [[7, 7]]


def test_a_region_smaller_than_a_pixel_is_one_pixel():
    mask = region_masks(regions(("dot", "ellipse", 100.2, 50.1, 100.4, 50.3)), Letterbox.fit(512, 512, (32, 32)))["dot"]
    assert np.argwhere(mask).tolist() == [[3, 6]]
