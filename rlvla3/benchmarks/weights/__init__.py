"""What the weight plane moves, what it costs training, and how soon a new version decides."""
