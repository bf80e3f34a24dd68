"""Decisions about deliveries: whom a record concerns, what is sent to whom, when again, and to which addresses never."""
