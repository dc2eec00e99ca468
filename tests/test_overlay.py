"""Overlays are clear at and below the uniform level and coloured by a percentile scale; flat maps are called flat."""

import matplotlib
import numpy as np
import pytest

from gazelit.deploy import overlay
from gazelit.deploy.overlay import draw_overlay, heat_and_opacity, is_nearly_flat, over_uniform, scale_end
from gazelit.deploy.preparing import shrunk
from gazelit.reporting.figures import Panel, panel_figure

GREY = np.tile(np.round(np.linspace(51, 204, 400)).astype(np.uint8), (500, 1))
FILM = GREY / np.float32(255)


def spot(width=40.0, floor=0.0):
    """A Gaussian in the upper left quarter over a floor, as a density."""
    rows, columns = np.mgrid[:500, :400]
    density = np.exp(-((rows - 125) ** 2 + (columns - 100) ** 2) / (2 * width**2)) + floor
    return (density / density.sum()).astype(np.float32)


def film_of(picture):
    return np.asarray(picture)[:500, :400]


def lines_drawn(monkeypatch):
    """The lines of text in pictures that are drawn from here on."""
    lines = []
    draw = overlay.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        overlay.ImageDraw.ImageDraw,
        "text",
        lambda self, at, text, **how: (lines.append(text), draw(self, at, text, **how)),
    )
    return lines


def test_the_film_is_untouched_at_and_below_the_uniform_level():
    density = spot()
    picture = film_of(draw_overlay(GREY, density))
    grey = GREY[..., None].repeat(3, axis=2)
    clear = density * density.size <= 1
    assert 0.5 < clear.mean() < 0.95
    assert np.array_equal(picture[clear], grey[clear])
    strong = density * density.size > 4
    assert (np.abs(picture[strong].astype(int) - grey[strong]).max(axis=1) > 10).all()
    # A uniform map leaves the whole film as it is.
    assert np.array_equal(film_of(draw_overlay(GREY, np.full_like(FILM, 1 / FILM.size))), grey)


def test_the_scale_ends_at_the_percentile_and_few_pixels_do_not_darken_the_rest():
    density = spot()
    peaked = density.copy()
    peaked[:4, :4] = density.max() * 1000
    for values in (density, peaked):
        multiples = over_uniform(values)
        assert multiples.mean(dtype=np.float64) == pytest.approx(1, rel=1e-5)
        assert scale_end(multiples) == pytest.approx(np.percentile(values, 99.5) / values.mean(dtype=float), rel=1e-4)
    heat, opacity = heat_and_opacity(over_uniform(density), 5.0)
    assert heat.max() == 1
    assert opacity.max() < 1
    assert np.argmax(over_uniform(density)) in np.flatnonzero(opacity == opacity.max())
    halfway, _ = heat_and_opacity(np.array([[1.0, 3.0, 5.0]], np.float32), 5.0)
    assert halfway.tolist() == [[0, 0.5, 1]]


def test_a_nearly_flat_map_is_said_to_be_flat_and_stays_pale(monkeypatch):
    lines = lines_drawn(monkeypatch)
    flat, sharp = spot(150, floor=10), spot()
    assert is_nearly_flat(over_uniform(flat))
    assert not is_nearly_flat(over_uniform(sharp))
    grey = GREY[..., None].astype(float)
    changes = [np.abs(film_of(draw_overlay(GREY, density)) - grey).max() for density in (flat, sharp)]
    assert changes[0] < 0.4 * changes[1]
    flat_lines, sharp_lines = lines[:3], lines[3:]
    assert flat_lines[:2] == ["1 x", "2 x"]
    assert flat_lines[2].startswith("nearly flat: 99.5 % of the map below 1.")
    assert sharp_lines[1] == f"{np.percentile(sharp, 99.5) * sharp.size:.3g} x"
    assert "nearly flat" not in sharp_lines[2]


def test_the_bar_shows_the_colours_from_the_top_to_the_uniform_level():
    picture = np.asarray(draw_overlay(GREY, spot()))
    bar = picture[:500, 400 + 8 : 400 + 24]
    colours = np.round(255 * matplotlib.colormaps[overlay.COLOUR_MAP](np.linspace(1, 0, 500))[:, :3])
    assert np.array_equal(bar, colours[:, None].repeat(16, axis=1))


@pytest.mark.parametrize("shape", [(500, 400), (3000, 2000), (40, 50), (1, 1), (2000, 3)])
def test_every_film_has_an_overlay_of_a_size_that_can_be_looked_at(shape):
    film = shrunk(np.full(shape, 0.5, np.float32))
    picture = draw_overlay(np.full(film.shape, 128, np.uint8), np.ones((8, 8), np.float32))
    assert 384 <= max(film.shape) <= 1024
    assert picture.width > film.shape[1]
    assert picture.height > film.shape[0]
    # The line of text below the film is never cut.
    assert picture.width >= 300


def test_the_reports_pictures_have_one_scale_a_case_and_name_flat_predictions():
    points = np.array([[100, 125, 1.0]], np.float32)
    panels = [
        Panel(name, FILM, spot(), prediction, points)
        for name, prediction in (("sharp", spot(50)), ("flat", spot(150, floor=10)))
    ]
    figure = panel_figure(panels)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles.count("model") == titles.count("model, nearly flat") == 1
    scales = [axis.images[1].get_clim() for axis in figure.axes if len(axis.images) == 2]
    assert scales[0] == scales[1]
    assert scales[0][0] == 1
    assert scales[2] == scales[3]
    assert [axis.get_ylabel() for axis in figure.axes].count("× uniform") == 2
