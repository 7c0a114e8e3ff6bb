"""Replicated state: who wrote what, in signed chains, and what follows from all that was written."""
