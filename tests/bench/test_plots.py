"""Plots: labels that overlap nothing, limits, the ring, tooltips, and well-formed XML."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.textpath import TextPath

from effnets.bench.choose import (
    Limits,
    ModelCandidate,
    Network,
    list_candidates,
    pareto_front,
    recommend,
    with_latencies,
)
from effnets.bench.plots import Point, draw_choice, draw_weights

SVG = "{http://www.w3.org/2000/svg}"


def point(name, latency):
    network = Network(name, 224, name)
    return ModelCandidate(
        name=name, family="mixnet", network=network, params=4_000_000, madds=10**8, top1=75.0, latency=latency
    )


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


def groups(root, prefix):
    return [group for group in root.iter(f"{SVG}g") if group.get("id", "").startswith(prefix)]


def label_boxes(root):
    """(left, top, right, bottom) of each label, as wide as its font is."""
    for group in groups(root, "label-"):
        text = next(group.iter(f"{SVG}text"))
        style, transform = text.get("style"), text.get("transform") or ""
        place = re.search(r"translate\(([\d.-]+) ([\d.-]+)\)", transform) or [None, text.get("x"), text.get("y")]
        x, y = float(place[1]), float(place[2])
        width = TextPath((0, 0), text.text, size=10).get_extents().width
        anchor = re.search(r"text-anchor: (\w+)", style)
        left = x - {"middle": width / 2, "end": width}.get(anchor[1] if anchor else "start", 0)
        yield text.text, (left, y - 8, left + width, y + 2)


def meet(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_labels_cover_no_other_label_and_no_mark(zoo):
    limits = Limits(max_latency=5, min_top1=70)
    _, root = plot(zoo, limits, recommend(zoo, limits).chosen)
    labels = list(label_boxes(root))
    assert {name for name, _ in labels} == {
        f"{one.name.partition('.')[0]} at {one.network.size}" for one in pareto_front(zoo)
    }
    for index, (_, box) in enumerate(labels):
        assert not any(meet(box, other) for _, other in labels[index + 1 :])
        assert 0 <= box[0] < box[2] <= 1001
        assert 0 <= box[1] < box[3] <= 620
    uses = [next(group.iter(f"{SVG}use")) for group in groups(root, "mark-")]
    assert len(uses) == len(zoo)
    for use in uses:
        x, y = float(use.get("x")), float(use.get("y"))
        assert not any(meet(box, (x - 1, y - 1, x + 1, y + 1)) for _, box in labels)


def test_limits_are_lines_and_the_chosen_one_has_a_ring(zoo):
    limits = Limits(max_latency=5, min_top1=70)
    text, root = plot(zoo, limits, recommend(zoo, limits).chosen)
    assert len(groups(root, "limit-")) == 2
    assert "at most 5 ms" in text
    assert "at least 70 %" in text
    assert len(groups(root, "ring")) == 1
    assert root.find(f"{SVG}title").text == "a < b & c"
    tips = [group.find(f"{SVG}title").text for group in groups(root, "mark-")]
    assert sorted(tip.partition(":")[0] for tip in tips) == sorted(one.label for one in zoo)


def test_the_same_numbers_give_the_same_file(zoo):
    assert plot(zoo, Limits(), None)[0] == plot(zoo, Limits(), None)[0]


@pytest.mark.parametrize("points", [[], [point("alone", 3.0)], [point("unmeasured", None)]])
def test_few_points(points):
    text, _ = plot(points, Limits(max_latency=5), None)
    assert ("alone at 224" in text) == (len(points) == 1 and points[0].latency is not None)


def test_a_label_without_room_is_left_out():
    style = {"family": "f", "publisher": "p", "name": "n"}
    points = [Point(x=1, y=70 + number / 1e3, label=f"label{number}", **style) for number in range(30)]
    root = ElementTree.fromstring(draw_weights(points, title="t", x_label="x", y_label="y"))
    assert 1 <= len(groups(root, "label-")) < 30
    assert len(groups(root, "mark-")) == 30
