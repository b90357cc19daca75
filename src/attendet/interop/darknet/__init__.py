"""Read and write darknet configurations and weights, and build their networks."""
