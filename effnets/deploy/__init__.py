"""From a network to files to ship: exact rewrites, verified exports, int8 behind an accuracy gate, tuning."""
