"""Classify an image with the network that comes with the package.

python examples/classify.py photo.jpg [MODEL]

Without MODEL: ten classes (airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck), no download.
With MODEL, for example mixnet_m: ImageNet's 1000 classes; the weights are fetched once.
"""

import sys

import effnets

image, name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "mixnet_xs_32px"
model = effnets.create_model(name, pretrained=True)
for prediction in effnets.predict(model, image, topk=3)[0]:
    print(f"{prediction.probability:6.1%}  {prediction.label}")
