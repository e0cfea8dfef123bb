"""Pictures that the demo draws."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from effnets.data.open import DataConfig, open_data
from effnets.demo.canvas import Canvas, box, curve, ellipse, moved
from effnets.demo.objects import OBJECTS, draw_object, write_data
from effnets.demo.pictures import PICTURES, write_pictures


def pixels(image):
    return np.asarray(image, dtype=np.int64)


def inside(points, size=100):
    """Share of a picture that an outline fills, and the middle of it."""
    canvas = Canvas(size)
    canvas.shape(points, (255, 255, 255))
    bright = pixels(canvas.finish(blur=0, grain=0))[..., 0] > 127
    rows, columns = np.nonzero(bright)
    return bright.mean(), ((columns.mean() + 0.5) / size, (rows.mean() + 0.5) / size)


@pytest.mark.parametrize(
    ("points", "area", "middle"),
    [
        (box(0.2, 0.4, 0.8, 0.6), 0.12, (0.5, 0.5)),
        (box(0.2, 0.4, 0.8, 0.6, radius=0.1), 0.12 - (4 - np.pi) * 0.01, (0.5, 0.5)),
        (ellipse((0.3, 0.6), (0.2, 0.1)), np.pi * 0.02, (0.3, 0.6)),
        (ellipse((0.3, 0.6), (0.2, 0.1), degrees=90), np.pi * 0.02, (0.3, 0.6)),
        (ellipse((0.5, 0.5), (0.3, 0.3), start=180, end=360), np.pi * 0.045, (0.5, 0.5 - 0.4 / np.pi)),
        (moved(box(-0.2, -0.1, 0.2, 0.1), (0.6, 0.4), scale=0.5, degrees=30), 0.02, (0.6, 0.4)),
    ],
)
def test_outlines_fill_what_geometry_says(points, area, middle):
    share, found = inside(points)
    assert share == pytest.approx(area, rel=0.05)
    assert found == pytest.approx(middle, abs=0.01)


def test_a_curve_goes_through_its_points():
    corners = [(0.2, 0.2), (0.8, 0.3), (0.7, 0.8)]
    assert all(min(abs(x - a) + abs(y - b) for a, b in curve(*corners)) < 1e-9 for x, y in corners)


def test_shapes_are_shaded_and_shadows_darken_what_is_there():
    canvas = Canvas(60)
    canvas.backdrop((0.0, (200, 200, 200)), (1.0, (200, 200, 200)))
    canvas.shape(box(0.1, 0.1, 0.4, 0.9), (250, 0, 0), (50, 0, 0))
    canvas.shadow(box(0.6, 0.1, 0.9, 0.5), strength=0.5, soft=0)
    canvas.glow(box(0.6, 0.5, 0.9, 0.9), strength=0.5, soft=0)
    red = pixels(canvas.finish(blur=0, grain=0))[..., 0]
    assert red[10, 15] > red[30, 15] + 50 > red[50, 15] + 100
    assert red[20, 45] < 110 < 200 == red[30, 30] < 220 < red[45, 45]


def test_every_picture_has_its_size_and_colours_and_comes_out_the_same_again(tmp_path):
    files = write_pictures(tmp_path / "pictures", size=64)
    assert set(files) == set(PICTURES)
    for name, path in files.items():
        drawn = Image.open(path)
        assert (drawn.mode, drawn.size) == ("RGB", (64, 64))
        assert len(drawn.getcolors(64 * 64)) > 500, f"{name} is flat"
        np.testing.assert_array_equal(pixels(drawn), pixels(PICTURES[name](64)))


@pytest.mark.parametrize("name", OBJECTS)
def test_no_two_objects_are_alike_and_a_seed_gives_the_same_again(name):
    one, other, again = (draw_object(name, 48, np.random.default_rng(seed)) for seed in (1, 2, 1))
    np.testing.assert_array_equal(pixels(one), pixels(again))
    assert np.abs(pixels(one) - pixels(other)).mean() > 8


def test_the_data_set_is_one_that_opens_without_a_note(tmp_path):
    write_data(tmp_path, {"train": 4, "val": 2, "test": 3}, size=24)
    splits = open_data(DataConfig(tmp_path, check="full"))
    assert splits.notes == ()
    assert splits.train is not None
    assert splits.train.class_names == tuple(sorted(OBJECTS))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [16, 8, 12]
