"""What executes an exported model, without torch where the engine needs none."""
