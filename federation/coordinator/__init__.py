"""The coordinator: sites, runs, rounds, aggregation and checkpoints."""
