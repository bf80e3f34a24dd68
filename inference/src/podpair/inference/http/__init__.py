"""The V2 protocol over REST: a thin edge that holds no decisions."""
