"""The plot of a choice: labels that overlap nothing, limits, the ring, and well-formed XML."""

from __future__ import annotations

import itertools
import random
import re
import xml.etree.ElementTree as ElementTree

import pytest

from effnets.bench.choose import Candidate, Limits, Network, list_candidates, pareto_front, recommend, with_latencies
from effnets.bench.choose_plot import draw_choice
from effnets.bench.plot_labels import Box, along, place_labels, width_of


def point(name, latency):
    network = Network(name, 224, name)
    return Candidate(
        name=name, family="mixnet", network=network, params=4_000_000, madds=10**8, top1=75.0, latency=latency
    )


SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def zoo():
    """Every published set of weights, with latencies made up of multiply-adds."""
    draw = random.Random(1)
    candidates = list_candidates()[0]
    factor = {one.family: draw.uniform(0.7, 1.6) for one in candidates}
    made_up = {
        one.network.key: 0.3 + factor[one.family] * (one.madds / 1e8) ** 0.9 * draw.uniform(0.9, 1.1)
        for one in candidates
    }
    return with_latencies(candidates, made_up)


def plot(candidates, limits, chosen):
    text = draw_choice(candidates, limits, chosen=chosen, title="a < b & c", x_label="ms")
    return text, ElementTree.fromstring(text)


def text_boxes(root):
    """What each label beside a point covers."""
    for element in root.iter(f"{SVG}text"):
        if " at " in (element.text or ""):
            x, y, width = float(element.get("x")), float(element.get("y")), width_of(element.text)
            left = x - width if element.get("text-anchor") == "end" else x
            yield element.text, Box(left, y - 10, left + width, y + 3)


def test_labels_lie_on_no_other_label_and_on_no_mark(zoo):
    limits = Limits(max_latency=5, min_top1=70)
    chosen = recommend(zoo, limits).chosen
    _, root = plot(zoo, limits, chosen)
    labels = list(text_boxes(root))
    assert {name for name, _ in labels} == {
        f"{one.name.partition('.')[0]} at {one.network.size}" for one in pareto_front(zoo)
    }
    for index, (_, box) in enumerate(labels):
        assert not any(box.meets(other) for _, other in labels[index + 1 :])
        assert box.inside(Box(0, 0, 1000, 620))
    marks = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
    for x, y in marks:
        assert not any(box.meets(Box(x - 1, y - 1, x + 1, y + 1)) for _, box in labels)


def test_limits_are_lines_and_the_chosen_one_has_a_ring(zoo):
    limits = Limits(max_latency=5, min_top1=70)
    text, root = plot(zoo, limits, recommend(zoo, limits).chosen)
    assert len(re.findall("stroke-dasharray", text)) == 2
    assert "at most 5 ms" in text
    assert "at least 70 %" in text
    assert [element.get("fill") for element in root.iter(f"{SVG}circle")].count("none") == 1
    assert root.find(f"{SVG}title").text == "a < b & c"


@pytest.mark.parametrize("points", [[], [point("alone", 3.0)], [point("unmeasured", None)]])
def test_few_points(points):
    text, _ = plot(points, Limits(max_latency=5), None)
    assert ("alone at 224" in text) == (len(points) == 1 and points[0].latency is not None)


def test_a_label_without_room_is_left_out():
    frame = Box(0, 0, 50, 20)
    assert place_labels([((25.0, 10.0), "far too long for this", 4.0)], [], frame) == [None]


def test_boxes_along_a_line_leave_no_gap():
    boxes = along((0.0, 0.0), (30.0, 40.0))
    assert all(one.meets(other) for one, other in itertools.pairwise(boxes))
