"""Put labels and vectors on a great many photographs: rows stream, outlive an interruption, and end in one file."""
