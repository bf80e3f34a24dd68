"""The Open Inference Protocol V2, as far as it is one thing for who asks and who answers (the extra `v2`)."""
