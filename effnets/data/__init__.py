"""Where pictures and their labels come from. Only `transforms` and `loader` know torch, and are imported by name."""

from effnets.data.dataset import ImageSource
from effnets.data.open import EvaluationData, open_data, open_evaluation_data
from effnets.data.splits import Splits

__all__ = ["EvaluationData", "ImageSource", "Splits", "open_data", "open_evaluation_data"]
