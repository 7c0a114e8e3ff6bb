"""Whether a peer knows what stands behind a provider key, before anything is said to it that tells it.

Who holds a part of the DHT sees under which keys others say that they are in some swarm or hold some blob, and may say
so itself. A swarm's id lets anybody in, a blob's digest lets anybody fetch it; the keys are hashes of these. So whoever
is found under a key is asked for a proof, which only the id or digest lets one compute, and which holds between these
two peers alone: who passes the question on to a member gets a proof for itself and not for the asker.

What a malicious peer may ask: any key, with any bytes to prove. What it achieves: to be told what the DHT tells, that
this node announced itself there; of 32 random bytes the proof tells nothing.
"""

import random
import secrets
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
import trio
from blake3 import blake3

from shoal.dht.contacts import Contact
from shoal.dht.keys import PROVIDER_KEY_BYTES_MAX, blob_providers_key, swarm_providers_key
from shoal.dht.service import DhtService
from shoal.transport.port import Code, PeerId, Refusal, Transport, Unary
from shoal.transport.wire import Digest, Message, encode

PROVE_S: Final = 5.0
MET_MAX: Final = 8  # dialed of those whom a search names


class Prove(Message, frozen=True):
    key: Annotated[bytes, msgspec.Meta(max_length=PROVIDER_KEY_BYTES_MAX)]  # of providers, in the DHT
    nonce: Digest


class Proof(Message, frozen=True):
    proof: Digest


PROVE: Final = Unary("/shoal/prove/1/prove", Prove, Proof, 256, 64)


def proof_of(secret: bytes, nonce: bytes, asker: PeerId, asked: PeerId) -> bytes:
    """32 bytes, by the 32 bytes of an id or digest."""
    return blake3(b"shoal/prove/1" + encode((nonce, asker, asked)), key=secret).digest()


def prove(known: Mapping[bytes, bytes], request: Prove, asker: PeerId, asked: PeerId) -> Proof | Refusal:
    """The answer of `asked`, who knows what stands behind these keys."""
    secret = known.get(request.key)
    if secret is None:
        return Refusal(Code.NOT_FOUND, "this node provides nothing there")
    return Proof(proof_of(secret, request.nonce, asker, asked))


async def members_of(transport: Transport, dht: DhtService, swarm: bytes) -> list[PeerId]:
    """Connected peers that are in a swarm, as far as knowing its id shows."""
    return await _who_knows(transport, dht, swarm_providers_key(swarm), swarm)


async def holders_of(transport: Transport, dht: DhtService, digest: bytes) -> list[PeerId]:
    """Connected peers that hold a blob, as far as knowing its digest shows."""
    return await _who_knows(transport, dht, blob_providers_key(digest), digest)


async def _who_knows(transport: Transport, dht: DhtService, key: bytes, secret: bytes) -> list[PeerId]:
    """Some of those who provide at `key`, dialed if need be, that know the secret behind it."""
    contacts = [each for each in await dht.providers(key) if each.peer != transport.peer_id]
    chosen = random.sample(contacts, min(MET_MAX, len(contacts)))  # so that nobody can be among the first for everybody
    knowing: list[PeerId] = []

    async def ask(contact: Contact) -> None:
        nonce = secrets.token_bytes(32)
        if await dht.reach(contact):
            reply = await transport.request(contact.peer, PROVE, Prove(key, nonce), timeout_s=PROVE_S)
            if isinstance(reply, Proof) and reply.proof == proof_of(secret, nonce, transport.peer_id, contact.peer):
                knowing.append(contact.peer)

    async with trio.open_nursery() as nursery:
        for contact in chosen:
            nursery.start_soon(ask, contact)
    return knowing
