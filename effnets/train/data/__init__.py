"""Where pictures and their labels come from. Only `transforms` and `loader` know torch, and are imported by name."""

from effnets.train.data.open import EvaluationData, open_data, open_evaluation_data
from effnets.train.data.source import ImageSource
from effnets.train.data.splits import Splits

__all__ = ["EvaluationData", "ImageSource", "Splits", "open_data", "open_evaluation_data"]
