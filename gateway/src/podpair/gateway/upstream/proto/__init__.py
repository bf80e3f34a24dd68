"""The wire formats, and what protoc made of them (`make proto`)."""
