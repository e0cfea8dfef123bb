"""Settings of the augmentation of images with boxes. Free of torch and torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from effnets.errors import ArgumentError
from effnets.utils.arguments import Range, check_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxAugmentation:
    """Settings of the training transform.

    Raises:
        ArgumentError: if a setting is out of its range.
    """

    horizontal_flip: Annotated[float, Range(0, 1), "Probability of a horizontal flip."] = 0.5

    def __post_init__(self) -> None:
        check_fields(self, ArgumentError)
