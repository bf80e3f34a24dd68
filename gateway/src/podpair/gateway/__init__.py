"""The gateway half of a pair: it owns every connection, session and queue; the model next door only computes."""
