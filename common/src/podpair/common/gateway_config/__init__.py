"""The gateway's configuration: its settings, their defaults and what is valid. The gateway loads it, the operator writes it."""
