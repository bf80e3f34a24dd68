"""The response to a connection for which there is no room, before any request is read."""

from podpair.gateway.core.protocol import Code

_MESSAGE = b'{"error":{"code":"%b","message":"too many connections: come again"}}' % Code.OVERLOADED.encode()
OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_MESSAGE), _MESSAGE)
)
