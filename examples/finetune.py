"""Fine-tune a pretrained network on your own images, sorted into one folder per class.

python examples/finetune.py photos run [MODEL] [EPOCHS]

`photos` is photos/cat/1.jpg, photos/dog/2.jpg, … or has train/, val/ and test/ with such folders inside. `run` receives
the network, metrics.json, report.html and the last checkpoint; after an interruption the same command continues.
"""

import sys

import effnets

data, output = sys.argv[1:3]
model = sys.argv[3] if len(sys.argv) > 3 else "mixnet_xs_32px"
epochs = int(sys.argv[4]) if len(sys.argv) > 4 else 8

result = effnets.finetune(effnets.Recipe(model=model, epochs=epochs), data, output, resume=True)
print(f"validation top-1: {result.best_top1}, test top-1: {result.test_top1}")
network = result.load()  # also: effnets.create_model("run", pretrained=True)
print("classes:", ", ".join(network.class_names))
