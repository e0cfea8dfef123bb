"""Boxes are drawn where they are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from effnets.detection.draw import class_color, draw_boxes, line_width
from effnets.detection.predict import Box

GRAY = (120, 120, 120)


def has_color(image, x, y, color):
    return np.abs(np.array(image.getpixel((x, y))) - np.array(color)).max() < 4


def test_lines_are_on_the_edges():
    image = Image.new("RGB", (300, 200), GRAY)
    drawn = draw_boxes(image, [Box(1, "cat", 0.9, 50, 60, 150, 160)])
    color = class_color(1)
    for x, y in ((50, 100), (149, 100), (100, 60), (100, 159)):
        assert has_color(drawn, x, y, color)
    for x, y in ((48, 100), (152, 100), (100, 110), (100, 162)):
        assert has_color(drawn, x, y, GRAY)
    assert np.asarray(image).max() == 120, "the image itself stays"


def test_the_label_stays_within_the_image():
    image = Image.new("RGB", (300, 200), GRAY)
    above = np.asarray(draw_boxes(image, [Box(1, "cat", 0.9, 50, 60, 150, 160)]))
    assert (above[45:58, 52:90] != 120).any()
    corner = np.asarray(draw_boxes(image, [Box(1, "a long name", 0.9, 280, 0, 300, 40)]))
    assert (corner[:12, 200:280] != 120).any()


def test_truth_is_dashed():
    drawn = np.asarray(draw_boxes(Image.new("RGB", (300, 200), GRAY), [], [Box(1, "cat", 1.0, 50, 60, 250, 160)]))
    row = (drawn[60, 50:250] != 120).any(axis=1)
    assert 0.3 < row.mean() < 0.7
    assert (drawn[70:150, 60:240] == 120).all()
    assert (drawn[:50] == 120).all(), "without a name"


def test_colors_differ_and_lines_grow():
    colors = [class_color(index) for index in range(1, 12)]
    distances = [np.abs(np.array(a) - np.array(b)).max() for a in colors for b in colors if a != b]
    assert min(distances) > 20
    assert line_width((100, 100)) == 2
    assert line_width((4000, 3000)) == 15


@pytest.mark.parametrize("name", ["日本語", "<script>", "", "x" * 500])
def test_any_name_and_any_box(name):
    image = Image.new("RGB", (60, 40), GRAY)
    drawn = draw_boxes(image, [Box(7, name, 0.5, -10, -10, 100, 100), Box(3, name, 0.5, 5, 5, 5.2, 5.2)])
    assert drawn.size == (60, 40)
