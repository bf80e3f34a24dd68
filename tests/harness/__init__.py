"""What the tests stand on: real processes (broker, gateway, inference), started and ended by pid."""
