"""Records of the results topic: terminal events and chunks, for whoever has them to write."""
