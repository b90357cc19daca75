"""darknet configurations and weights: read, build, write."""
