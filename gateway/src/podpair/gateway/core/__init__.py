"""What the gateway decides, without I/O: no socket, no broker, no clock, no loop. The edges import this, never the reverse."""
