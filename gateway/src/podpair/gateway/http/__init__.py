"""The public port: WebSocket, server-sent events, V2, health, metrics, the console."""
