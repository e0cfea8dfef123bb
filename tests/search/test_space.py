"""Search spaces: what is offered, the networks that come of it, and the messages about mistakes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from effnets.errors import ConfigError
from effnets.search.space import list_spaces, read_space

SPACE = """
mine:
  base: mixnet_xs_32px
  stem: [16, 32]
  blocks:
    - ds_r1_k{3|3.5}_s1_c16
    - ir_r{1|2}_k3_s2_e{3|6}_c40{|_se0.25}
  head: 128
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_choices_are_named_by_row_and_key(tmp_path: Path) -> None:
    space = read_space(written(tmp_path, SPACE))
    assert [(choice.name, choice.options) for choice in space.choices] == [
        ("stem", (16, 32)),
        ("blocks.1.k", ("3", "3.5")),
        ("blocks.2.r", ("1", "2")),
        ("blocks.2.e", ("3", "6")),
        ("blocks.2.se", ("", "_se0.25")),
    ]
    assert space.size == 32
    assert [choice.row for choice in space.choices] == [None, 0, 1, 1, 1]


def test_picks_make_the_network_they_say(tmp_path: Path) -> None:
    space = read_space(written(tmp_path, SPACE))
    spec = space.spec((1, 1, 1, 0, 1))
    assert (spec.stem, spec.head, spec.name) == (32, 128, "mine")
    first, second = spec.blocks
    assert first.kernel_sizes == (3, 5)
    assert (second.repeats, second.expansion, float(second.se_ratio or 0)) == (2, 3.0, 0.25)
    assert space.describe((1, 1, 1, 0, 1))["blocks.2.se"] == "_se0.25"


@pytest.mark.parametrize("name", list_spaces())
def test_included_spaces_make_networks(name: str) -> None:
    space = read_space(name)
    random = Random(0)
    assert len({space.spec(space.random(random)) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("k{3|3.5}_s1", "k{3|4}_s1", r"space\.yaml:6: .*kernel size is 4; .*with blocks\.1\.k = '4'"),
        ("k{3|3.5}_s1", "k{3|3}_s1", r"space\.yaml:6: mine: blocks\.1\.k offers 3 \| 3; offer at least two, each once"),
        ("k{3|3.5}_s1", "k{3|3.5_s1", r"space\.yaml:6: mine: '.*k\{3\|3\.5_s1.*' has a brace without its partner"),
        ("k{3|3.5}_s1", "k{3}_s1", r"blocks\.1\.k offers 3; offer at least two"),
        ("stem: [16, 32]", "stem: []", r"stem offers nothing; offer at least two options, or a range"),
        ("stem: [16, 32]", "stem: [16, x]", "stem is 'x'; it must be a whole number"),
        ("head: 128", "heads: 128", "unknown key 'heads'; did you mean 'head'"),
        ("head: 128", "head: 128\nother: {base: mixnet_s}", "holds 2 entries; a search space is one"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_space(written(tmp_path, SPACE.replace(old, new)))


def test_a_model_without_choices_is_no_space(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no choice is offered; write some in a block string"):
        read_space(written(tmp_path, "mine: {base: mixnet_s}"))


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no search space 'mixcon'; did you mean 'mixconv'"):
        read_space("mixcon")
