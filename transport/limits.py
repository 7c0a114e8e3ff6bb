"""The bounds a node sets on what peers may make it hold or do; each names what suffers when it grows."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Per node unless the name says per peer."""

    connections_max: int = 256  # memory: about 0.3 MB each
    connection_quiet_s: float = 10.0  # after its last use one may be closed for another; longer: newcomers are refused
    connection_unused_s: float = 60.0  # and, where there are many, for nothing; longer: seats held for nothing
    connections_per_peer_max: int = 3  # py-libp2p keeps up to three; a fourth is closed
    bulk_connections_max: int = 64  # for chunks alone; memory: 2 MB and a thread each
    streams_per_peer_max: int = 32  # libp2p streams; yamux itself blocks at 256
    calls_per_peer_max: int = 256  # concurrent calls a peer may have open here; memory: their credits
    requests_per_peer_per_s: float = 50_000.0  # token bucket; CPU
    requests_per_peer_burst: int = 100_000
    bytes_per_peer_buffered_max: int = 16 * 1024 * 1024  # received and not yet consumed, all calls together
    message_bytes_max: int = 8 * 1024 * 1024  # of any one message, whatever its method allows
