"""How a port accepts connections, and ends those that don't get on: for servers on aiohttp's (the extra `listener`)."""
