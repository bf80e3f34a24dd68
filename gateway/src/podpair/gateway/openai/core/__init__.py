"""The pure core of OpenAI's API: bodies, errors and events, without I/O."""
