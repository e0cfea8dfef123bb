"""What an exported file says of itself is true of the values in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import effnets
from effnets.deploy.export.metadata import describe
from effnets.spec.weights import find_weights


def description(network):
    return describe(network, size=None, input_kind="normalised", rewrites=None)


@pytest.fixture
def published():
    """The weights that come along, as if they were fetched from where others are published."""
    network = effnets.create_model("mixnet_xs_32px.cifar10", pretrained=True)
    source = find_weights("mobilenetv1_100.ra4_e3600_r224_in1k").source
    network.load_report = replace(network.load_report, source=source)
    return network


def test_published_weights_have_their_accuracy(published):
    found = description(published)
    assert found.weights["tag"] == "ra4_e3600_r224_in1k"
    assert found.weights["sha256"] == published.load_report.sha256
    assert found.accuracy["top1"] > 75


def another_classifier(network):
    network.reset_classifier(10)


def other_values(network):
    with torch.no_grad():
        network.stem.conv.weight.mul_(1.01)


def other_statistics(network):
    network.train()(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("change", [another_classifier, other_values, other_statistics])
def test_changed_weights_claim_nothing(published, change):
    source = description(published).weights["source"]
    change(published)
    found = description(published)
    assert found.accuracy == {}
    assert found.weights == {
        "source": source, "dialect": "effnets", "licence": description(published).weights["licence"], "changed": True
    }  # fmt: skip


def test_a_network_on_another_way_and_back_is_what_it_was(published):
    before = description(published)
    assert description(published.double().float().train().eval()) == before
