"""Live sessions: connections, the fan-out of Kafka's records to them, resuming, and their requests."""
