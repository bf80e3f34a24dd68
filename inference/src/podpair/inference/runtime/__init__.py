"""What runs a model: sessions, runner threads, the scheduler between them and the asyncio loop."""
