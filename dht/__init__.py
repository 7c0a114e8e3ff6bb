"""Finding peers, swarms and blobs: a Kademlia on libp2p's wire protocol."""
