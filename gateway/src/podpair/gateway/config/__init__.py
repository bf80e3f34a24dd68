"""The gateway's configuration: one model, from a YAML file and the environment, all faults at once."""
