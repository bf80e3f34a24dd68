"""A gateway from Kafka to WebSockets with python-socketio and its Kafka manager, as its documentation has it (gevent).

It does less than podpair's: no resume, no requests, no back-pressure. Its records are the manager's own messages, its clients
speak Socket.IO. Prints `ready` once it listens.
"""

from gevent import monkey

monkey.patch_all()  # before anything else is imported

import argparse
from typing import Any

import jwt
import socketio
from gevent import pywsgi
from geventwebsocket.handler import WebSocketHandler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--port", "--brokers", "--topic", "--secret"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    manager = socketio.KafkaManager(f"kafka://{options.brokers}", channel=options.topic)
    server = socketio.Server(async_mode="gevent", client_manager=manager, transports=["websocket"])

    @server.event
    def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        token = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
        try:
            claims = jwt.decode(token, options.secret, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            raise ConnectionRefusedError("unauthorized") from None
        server.enter_room(sid, claims["sid"])

    http = pywsgi.WSGIServer(
        ("127.0.0.1", int(options.port)), socketio.WSGIApp(server), handler_class=WebSocketHandler, log=None
    )
    http.start()
    print("ready", flush=True)
    http.serve_forever()


if __name__ == "__main__":
    main()
