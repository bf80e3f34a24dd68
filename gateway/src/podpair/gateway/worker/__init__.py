"""Works on queued requests: whatever gateway accepted them, any gateway of the group answers."""
