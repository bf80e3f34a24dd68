"""Deliveries of results to webhooks and Slack, for those who aren't connected."""
