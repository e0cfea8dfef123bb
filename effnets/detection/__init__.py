"""Object detectors on the networks of the zoo, and the labeled boxes that they learn from and are measured on."""
