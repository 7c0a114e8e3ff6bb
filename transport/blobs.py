"""Content-addressed blobs: their names."""

from .wire import U64, Digest, Message


class BlobRef(Message, frozen=True):
    """Names a blob by content. `digest` is the hash of its manifest, which lists the hashes of its chunks."""

    digest: Digest
    size: U64  # bytes
