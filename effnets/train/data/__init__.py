"""Where pictures and their labels come from. Only `transforms` and `loader` know torch, and are imported by name."""

from effnets.train.data.open import open_data, open_evaluation_data
from effnets.train.data.source import ImageSource
from effnets.train.data.splits import Splits

__all__ = ["ImageSource", "Splits", "open_data", "open_evaluation_data"]
