"""What the engine costs, counted or side by side with its peers: `python -m benchmarks`."""
