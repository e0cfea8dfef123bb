"""Measure models on labeled images, and compare them. Free of torch, unless the model is a torch module."""

from effnets.evaluation.evaluate import evaluate
from effnets.evaluation.result import Broken, Comparison, Evaluation, RealScore, compare

__all__ = ["Broken", "Comparison", "Evaluation", "RealScore", "compare", "evaluate"]
