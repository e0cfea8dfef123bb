"""What a network is, without torch: tables, block strings, plans, counts."""
