"""RabbitMQ: a queue that requests are taken from, and the queues of those who wait for an answer."""
