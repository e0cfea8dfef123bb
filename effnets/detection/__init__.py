"""Detectors on the zoo's backbones, and the labeled boxes that they learn from and are measured on."""
