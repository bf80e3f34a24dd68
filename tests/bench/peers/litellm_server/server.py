"""LiteLLM's proxy before a server of OpenAI's API: `server.py --config FILE --port N`."""

from litellm import run_server

run_server()
