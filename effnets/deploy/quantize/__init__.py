"""int8 behind an accuracy gate."""
