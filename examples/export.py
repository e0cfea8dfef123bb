"""Export a network to one verified ONNX file, and classify with it in a process that has no torch.

python examples/export.py photo.jpg model.onnx

Needs `pip install 'effnets[export]'`. The file contains labels, preprocessing and provenance in its metadata.
"""

import subprocess
import sys

import effnets

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # any import of torch is an error from here on
import effnets

engine = effnets.load_engine(sys.argv[2])
for prediction in effnets.predict(engine, sys.argv[1], topk=3)[0]:
    print(f"{prediction.probability:6.1%}  {prediction.label}")
"""

image, path = sys.argv[1:3]
model = effnets.create_model("mixnet_xs_32px", pretrained=True).eval()
report = effnets.export_onnx(model, path)  # compared with torch on ONNX Runtime and OpenVINO, or no file and an error
print(report)
subprocess.run([sys.executable, "-c", WITHOUT_TORCH, image, path], check=True)
