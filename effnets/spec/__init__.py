"""What a network is, before any tensor exists: specs, the YAML tables that state them, plans and costs. No torch."""
