"""How good a model is on pictures with labels, whatever executes it. Free of torch where the model is."""

from effnets.train.evaluation.comparison import Comparison, compare
from effnets.train.evaluation.judge import evaluate
from effnets.train.evaluation.result import Broken, Evaluation, RealScore

__all__ = ["Broken", "Comparison", "Evaluation", "RealScore", "compare", "evaluate"]
