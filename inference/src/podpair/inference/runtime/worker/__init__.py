"""Python models in processes of their own: the server's side (process, runtime, supervisor), and the worker's (serving)."""
