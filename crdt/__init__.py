"""A swarm's replicated, signed state. Empty until the store lands; the roster is exchanged directly."""
