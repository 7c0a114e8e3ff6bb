"""Finding peers, swarms and blobs. Empty until discovery lands; a swarm's members find one another by its invite and roster."""
