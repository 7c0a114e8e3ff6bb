"""What to compute, whose work counts, and when a round ends. The only layer that imports torch."""
