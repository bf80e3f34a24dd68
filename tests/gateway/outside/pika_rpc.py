"""An RPC client as pika's own tutorial has it, with many calls at a time. Arguments: the URL, the queue, the calls, and what
replies come by: `queue` (an exclusive one) or `direct` (RabbitMQ's direct reply-to). Prints one JSON object."""

import json
import sys
import uuid

import pika

url, queue, calls, by = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]


class RpcClient:
    """Calls whose answers are matched by their correlation ids."""

    def __init__(self) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        if by == "direct":
            self.callback_queue = "amq.rabbitmq.reply-to"
        else:
            self.callback_queue = self.channel.queue_declare(queue="", exclusive=True).method.queue
        self.channel.basic_consume(self.callback_queue, self.on_response, auto_ack=True)
        self.waiting = {}
        self.answers = {}
        self.unasked = 0

    def on_response(self, _channel, _method, properties, body) -> None:
        number = self.waiting.pop(properties.correlation_id, None)
        if number is None:
            self.unasked += 1
        else:
            self.answers[number] = json.loads(body)

    def call(self, number: int) -> None:
        correlation_id = str(uuid.uuid4())
        self.waiting[correlation_id] = number
        self.channel.basic_publish(
            exchange="",
            routing_key=queue,
            properties=pika.BasicProperties(
                reply_to=self.callback_queue, correlation_id=correlation_id, headers={"model": "digits"}
            ),
            body=json.dumps({"data": [float(number % 16)] * 64}),
        )


client = RpcClient()
for number in range(calls):
    client.call(number)
while client.waiting:
    client.connection.process_data_events(time_limit=30)
client.connection.close()
sys.stdout.write(json.dumps({"unasked": client.unasked, "answers": [client.answers[n] for n in range(calls)]}) + "\n")
