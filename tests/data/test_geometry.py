import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazelit.data.images.geometry import Letterbox

SIDES = st.integers(100, 3100)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from([(640, 512), (160, 128), (224, 224)]), st.floats(0, 1), st.floats(0, 1))
def test_points_come_back_where_they_were(height, width, size, u, v):
    letterbox = Letterbox.fit(height, width, size)
    point = np.array([u * (width - 1), v * (height - 1)])
    working = letterbox.to_working(point)
    assert np.allclose(letterbox.to_original(working), point, atol=1e-6)
    assert -0.5 <= working[0] <= size[1] - 0.5
    assert -0.5 <= working[1] <= size[0] - 0.5
    mask = letterbox.valid_mask()
    assert mask[min(round(working[1]), size[0] - 1), min(round(working[0]), size[1] - 1)] or not mask.all()


@pytest.mark.parametrize(("height", "width"), [(3056, 2544), (2544, 3056), (1955, 1841), (301, 299)])
def test_image_and_points_move_together(height, width):
    image = np.zeros((height, width), np.float32)
    y, x = int(0.37 * height), int(0.61 * width)
    spot = max(height // 160, 3)
    image[y - spot : y + spot + 1, x - spot : x + spot + 1] = 1
    letterbox = Letterbox.fit(height, width, (320, 256))
    working = letterbox.apply(image)
    ys, xs = np.mgrid[:320, :256]
    centroid = np.array([(xs * working).sum(), (ys * working).sum()]) / working.sum()
    assert np.abs(centroid - letterbox.to_working(np.array([x, y], float))).max() < 0.05
    back = letterbox.restore(working)
    ys, xs = np.mgrid[:height, :width]
    centroid = np.array([(xs * back).sum(), (ys * back).sum()]) / back.sum()
    assert np.abs(centroid - [x, y]).max() <= 0.5


def test_the_aspect_ratio_is_kept_and_landscape_is_padded_not_cropped():
    letterbox = Letterbox.fit(2544, 3056, (640, 512))
    assert letterbox.scale == pytest.approx((512 / 3056, 512 / 3056), rel=2e-3)
    assert letterbox.valid_mask().mean() == pytest.approx(426 / 640, abs=0.002)
    assert letterbox.left == 0


def test_shrinking_does_not_alias():
    # A checkerboard of single pixels: every fifth pixel would be black or white, its average is grey.
    image = (np.indices((1000, 1000)).sum(0) % 2).astype(np.float32)
    assert np.abs(Letterbox.fit(1000, 1000, (96, 96)).apply(image) - 0.5).max() < 0.06
