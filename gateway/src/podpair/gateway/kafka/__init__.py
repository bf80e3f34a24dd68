"""The broker's side: clients, topics, the results reader, history, the producer, the requests consumer, the embedded broker."""
