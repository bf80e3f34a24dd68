"""The public port: WebSocket, server-sent events, V2, health, the console; and the operators' port."""
