"""The controller: a work queue, workers that reconcile resources, and what they need."""
