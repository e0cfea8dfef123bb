"""Training, fine-tuning and evaluation. Importing it imports nothing heavy; its modules do."""
