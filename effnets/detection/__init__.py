"""Object detectors on the networks of the zoo: SSDLite, Faster R-CNN and RetinaNet, with torchvision's interface."""
