"""The response to a connection for which there is no room, before any request is read."""

_MESSAGE = b'{"error":{"code":"overloaded","message":"too many connections: come again"}}'
OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_MESSAGE), _MESSAGE)
)
