"""The broker's edge: topics, and the group's lag."""
