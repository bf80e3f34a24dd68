"""OpenAI's API on the public port."""
