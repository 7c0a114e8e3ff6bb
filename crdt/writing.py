"""A node's own operations, sealed and judged but not applied yet: first they have to be on disk.

Were they applied first, a peer that compares meanwhile would hear of what a power cut may still undo; and a disk that
is full would leave in memory what no disk has.
"""

from collections.abc import Sequence

from shoal.transport.identity import peer_id_of
from shoal.transport.wire import Malformed

from .chain import Chain
from .dots import Writer
from .operation import OPERATIONS_MAX, BatchSigner, Operation, Stretch, genesis, seal
from .replica import Replica
from .rules import Records, Unknown, judge


def prepare(
    replica: Replica, records: Records, signer: BatchSigner, operations: Sequence[Operation]
) -> Stretch | Malformed:
    """The batch to store and then to admit; Malformed if the rules refuse it, or this key's chain has forked."""
    writer = Writer(signer.public_key)
    chain = replica.chain(writer) or Chain(writer, 0, genesis(replica.swarm, writer))
    if chain.is_forked:
        return Malformed(
            f"{peer_id_of(writer)} has written two histories (was its data directory copied or restored?): "
            "nothing it writes counts any more; the node needs a new key"
        )
    if not 0 < len(operations) <= OPERATIONS_MAX:
        return Malformed(f"a batch has 1 to {OPERATIONS_MAX} operations, not {len(operations)}")
    if replica.chain(writer) is None and len(replica.context()) >= replica.rules.writers_max:
        return Malformed(f"more than {replica.rules.writers_max} writers in this swarm")
    for operation in operations:
        verdict = judge(operation, writer, replica.rules, records)
        if isinstance(verdict, Unknown):
            return Malformed("an operation names a record that is not known here")
        if verdict is not None:
            return verdict
    stretch = seal(signer, replica.swarm, chain.number + 1, chain.hash_at(chain.number), operations)
    return chain.refusal(stretch, stretch.first, replica.rules) or stretch
