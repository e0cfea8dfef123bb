"""Describe a network in YAML, look at its costs, build it, and train a step.

python examples/own_network.py
"""

from pathlib import Path

import torch

import effnets

PATH = Path(__file__).with_name("own_network.yaml")
for name in ("pocket_net", "pocket_net_wide"):
    spec = effnets.load_spec(f"{PATH}:{name}")
    cost = effnets.count(spec)
    print(f"{name}: {cost.params / 1e3:.0f} thousand parameters, {cost.madds / 1e6:.1f} million multiply-adds")

model = effnets.create_model(f"{PATH}:pocket_net")
logits = model(torch.randn(2, 3, 96, 96))
logits.sum().backward()
print("logits:", tuple(logits.shape))
