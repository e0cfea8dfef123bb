"""How good a model is on pictures with labels, whatever executes it. Free of torch where the model is."""

from effnets.evaluation.comparison import Comparison, compare
from effnets.evaluation.evaluate import evaluate
from effnets.evaluation.result import Broken, Evaluation, RealScore

__all__ = ["Broken", "Comparison", "Evaluation", "RealScore", "compare", "evaluate"]
