"""Small helpers without networks: atomic files, argument checks, machine facts, timing, graceful shutdown."""
