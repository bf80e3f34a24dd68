"""The container's configuration: one model, from a file and the environment."""
