"""Finding peers, swarms and blobs. Empty until discovery lands: members find one another by invite and roster."""
