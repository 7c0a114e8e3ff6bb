"""Who a peer is, and how bytes travel. The only layer that imports libp2p."""
