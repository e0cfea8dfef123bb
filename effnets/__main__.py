"""``python -m effnets`` is the command ``effnets``."""

from effnets.cli import main

main(prog_name="effnets")
