"""Classes of the data find their outputs, or the error shows both."""

from __future__ import annotations

import numpy as np
import pytest

from effnets.errors import ArgumentError
from effnets.evaluation.labels import match_classes
from effnets.inference.labels import class_names, imagenet1k, imagenet1k_lemmas, imagenet1k_wordnet_ids

MODEL = ("cat", "dog", "owl")


def test_the_same_order():
    outputs, note = match_classes(MODEL, MODEL)
    assert outputs.tolist() == [0, 1, 2]
    assert note is None


def test_another_order():
    outputs, note = match_classes(("owl", "cat", "dog"), MODEL)
    assert outputs.tolist() == [2, 0, 1]
    assert note is None


def test_some_of_the_classes():
    outputs, note = match_classes(("owl", "cat"), MODEL)
    assert outputs.tolist() == [2, 0]
    assert note == "the data have 2 of the model's 3 classes; an answer among the others counts as wrong"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (("cat", "dog", "fox"), "1 are not the model's"),
        (("Cat", "Dog", "Owl"), "3 are not the model's"),
        (("cat", "dog", "owl", "fox"), "1 are not the model's"),
    ],
)
def test_a_mismatch_shows_both(data, why):
    with pytest.raises(ArgumentError) as raised:
        match_classes(data, MODEL)
    message = str(raised.value)
    assert why in message
    assert f"data:  {len(data)} ({', '.join(data)})" in message
    assert "model: 3 (cat, dog, owl)" in message
    assert "rename the data's classes" in message


def test_doubled_names_in_another_order_are_not_guessed():
    with pytest.raises(ArgumentError, match="names occur more than once, in another order"):
        match_classes(("b", "a", "a"), ("a", "a", "b"))


@pytest.mark.parametrize("names", [imagenet1k(), imagenet1k_wordnet_ids(), imagenet1k_lemmas()])
@pytest.mark.parametrize("outputs", [1000, 1001])
def test_imagenet_by_any_of_its_names(names, outputs):
    found, note = match_classes(names, class_names(outputs))
    np.testing.assert_array_equal(found, np.arange(1000) + outputs - 1000)
    assert note is None


@pytest.mark.parametrize("outputs", [1000, 1001])
def test_some_of_imagenets_folders(outputs):
    found, note = match_classes(("n02099601", "n01440764"), class_names(outputs))
    assert [class_names(outputs)[place] for place in found] == ["golden retriever", "tench"]
    assert note
    assert f"2 of the model's {outputs} classes" in note


def test_wordnet_numbers_mean_nothing_to_other_models():
    with pytest.raises(ArgumentError, match="1 are not the model's"):
        match_classes(("n01440764", "cat"), MODEL)


def test_outputs_without_names():
    outputs, note = match_classes(("a", "b", "c"), class_names(3), named=False)
    assert outputs.tolist() == [0, 1, 2]
    assert note == "the model does not name its 3 outputs: taken in the order of the data's classes"
    with pytest.raises(ArgumentError, match="their numbers differ, and the model does not name its outputs"):
        match_classes(("a", "b"), class_names(3), named=False)


def test_numbers_are_the_outputs_of_a_model_with_names():
    """As in ImageNetV2, whose folders are called 0 to 999: a program that sorts their names gets another order."""
    names = sorted(str(index) for index in range(12))
    assert names[2] == "10"
    outputs, note = match_classes(names, tuple("abcdefghijkl"))
    assert outputs.tolist() == [int(name) for name in names]
    assert note == "the data number their classes, which are taken for the model's outputs in order"
    numbers = sorted(str(index) for index in range(1000))
    assert match_classes(numbers, class_names(1000))[0].tolist() == [int(name) for name in numbers]


@pytest.mark.parametrize("first", [0, 1])
def test_two_orders_of_numbers_for_a_model_without_names(first):
    """torchvision's ImageFolder sorts folders as texts: output 2 of what it trains may be class 10."""
    names = [str(index) for index in range(first, first + 12)]
    with pytest.raises(ArgumentError) as caught:
        match_classes(names, class_names(12), named=False)
    message = str(caught.value)
    assert f"numeric, as in effnets and timm: 12 ({', '.join(names[:6])}, …)" in message
    assert (
        f"lexicographic, as in torchvision's ImageFolder and Keras: 12 ({', '.join(sorted(names)[:6])}, …)" in message
    )
    assert "class_order='numeric' or 'lexicographic' (--class-order)" in message
    outputs, note = match_classes(names, class_names(12), named=False, class_order="numeric")
    assert outputs.tolist() == list(range(12))
    assert note == "the model does not name its 12 outputs: taken in numeric order"
    outputs, _ = match_classes(names, class_names(12), named=False, class_order="lexicographic")
    assert [sorted(names)[output] for output in outputs] == names


@pytest.mark.parametrize("names", [[str(index) for index in range(10)], [f"{index:02}" for index in range(12)]])
def test_orders_of_numbers_that_agree_need_no_word(names):
    outputs, note = match_classes(names, class_names(len(names)), named=False)
    assert outputs.tolist() == list(range(len(names)))
    assert note.endswith("taken in the order of the data's classes")


def test_numbers_leave_the_background_out_and_must_be_all_of_them():
    numbers = [str(index) for index in range(1000)]
    outputs, _ = match_classes(numbers, class_names(1001))
    np.testing.assert_array_equal(outputs, np.arange(1, 1001))
    for some in (["0", "1"], ["1", "2", "3"], ["0", "1", "2", "3"]):
        with pytest.raises(ArgumentError, match="are not the model's"):
            match_classes(some, MODEL)


def test_a_model_whose_names_are_numbers_keeps_them():
    model_names = tuple(sorted(str(index) for index in range(12)))
    outputs, note = match_classes([str(index) for index in range(12)], model_names)
    assert [model_names[output] for output in outputs] == [str(index) for index in range(12)]
    assert note is None
