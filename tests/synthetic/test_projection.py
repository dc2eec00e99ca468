"""The physics of projection, against numerical integration."""

import numpy as np
import pytest

from gazelit.synthetic.projection import Grid, add_tube, expose, film_grid, half_chord, overlap
from gazelit.synthetic.shapes import Ellipsoid, Position, Tube


@pytest.fixture
def grid():
    axis = (np.arange(60) - 29.5).astype(np.float32) * 0.3
    x, y = np.meshgrid(axis, axis)
    return Grid(x, y, 0.3)


def marched(inside, grid, reach=15.0, steps=6001):
    """Length within a body along z, by counting steps."""
    z = np.linspace(-reach, reach, steps)
    return np.array(
        [
            [inside(x, y, z).mean() * 2 * reach for x, y in zip(*row, strict=True)]
            for row in zip(grid.x, grid.y, strict=True)
        ]
    )


@pytest.mark.parametrize(("angle", "power"), [(0.0, 2.0), (0.5, 2.0), (-0.3, 2.5)])
def test_chords_of_ellipsoids_equal_a_march_through_them(grid, angle, power):
    body = Ellipsoid(1.0, -0.7, 2.0, 4.0, 6.0, 5.0, angle, power)
    c, s = np.cos(angle), np.sin(angle)

    def inside(x, y, z):
        u, v = (c * (x - 1) + s * (y + 0.7)) / 4, (c * (y + 0.7) - s * (x - 1)) / 6
        return (abs(u) ** power + abs(v) ** power) ** (2 / power) + ((z - 2) / 5) ** 2 <= 1

    assert np.abs(2 * half_chord(body, grid) - marched(inside, grid)).max() < 0.02


def test_overlap_equals_a_march_through_both(grid):
    left, right = Ellipsoid(-1, 0, 0, 5, 6, 4), Ellipsoid(2, 1, 2, 4, 4, 3)

    def inside(x, y, z):
        first = ((x + 1) / 5) ** 2 + (y / 6) ** 2 + (z / 4) ** 2 <= 1
        return first & (((x - 2) / 4) ** 2 + ((y - 1) / 4) ** 2 + ((z - 2) / 3) ** 2 <= 1)

    ours = overlap(half_chord(left, grid), left.z, half_chord(right, grid), right.z)
    assert np.abs(ours - marched(inside, grid)).max() < 0.02


def test_a_solid_tube_across_the_film_has_a_cylinders_chords(grid):
    target = np.zeros_like(grid.x)
    add_tube(target, Tube(np.array([[-20.0, 0.5], [20.0, 0.5]]), 1.5, 1.5), grid, 1.0)
    expected = 2 * np.sqrt(np.maximum(1.5**2 - (grid.y - 0.5) ** 2, 0))
    assert np.abs(target - expected).max() < 1e-4


def test_a_tapering_tube_is_thinner_at_its_end(grid):
    target = np.zeros_like(grid.x)
    add_tube(target, Tube(np.array([[-6.0, 0.0], [6.0, 0.0]]), 2.0, 0.5), grid, 1.0)
    row = target[np.abs(grid.y[:, 0]).argmin()]
    assert row[12] > row[30] > row[47] > 0


def test_attenuation_follows_beer_and_lambert():
    # Slabs of soft tissue without scatter: the film's density is linear in the thickness, whatever the exposure.
    thickness = np.repeat(np.linspace(5, 20, 64, dtype=np.float32)[None], 64, axis=0)
    shown = expose(0.17 * thickness, (64, 64), np.random.default_rng(0), 40.0).astype(float)
    density = np.log(shown / (1 - shown))[32]
    inner = slice(12, 52)
    assert np.corrcoef(density[inner], thickness[0, inner])[0, 1] > 0.98
    assert (np.diff(density[inner][::6]) > 0).all()


def test_thicker_is_brighter():
    thin, thick = np.full((64, 64), 1.0, np.float32), np.full((64, 64), 1.0, np.float32)
    thick[20:40, 20:40] = 2.5
    shown = expose(thick, (64, 64), np.random.default_rng(0), 40.0)
    assert shown[25:35, 25:35].mean() > shown[45:60, 45:60].mean() + 0.2
    assert thin.shape == shown.shape


def test_positions_and_film_coordinates_are_inverse():
    position = Position(2.0, -5.0, 0.93, 0.05)
    x, y = np.array([0.0, 3.5, -8.0]), np.array([1.0, -7.0, 12.0])
    assert np.allclose(position.to_chest(*position.to_film(x, y)), (x, y))
    grid = film_grid((43, 35), (43.0, 35.0), position)
    u, v = position.to_film(grid.x.astype(float), grid.y.astype(float))
    # A pixel is a centimetre wide, so the first centre is half a pixel from the edge.
    assert np.allclose(u[0], np.arange(35) + 0.5 - 17.5, atol=1e-4)
    assert np.allclose(v[:, 0], np.arange(43) + 0.5 - 21.5, atol=1e-4)
