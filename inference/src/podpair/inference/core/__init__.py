"""What the inference container decides, without sockets, threads, clocks or a runtime (held by import-linter)."""
