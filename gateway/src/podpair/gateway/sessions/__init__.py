"""Live sessions: their connections, the fan-out of Kafka's records to them, joining and resuming, and their requests."""
