"""Files written whole, argument checks, facts of the machine, timing. Knows nothing of networks."""
