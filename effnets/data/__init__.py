"""Where images and their labels come from. Only `transforms` and `loader` know torch, and are imported by name."""

from effnets.data.dataset import ImageDataset
from effnets.data.open import DataConfig, EvaluationData, open_data, open_evaluation_data
from effnets.data.splits import Splits

__all__ = ["DataConfig", "EvaluationData", "ImageDataset", "Splits", "open_data", "open_evaluation_data"]
