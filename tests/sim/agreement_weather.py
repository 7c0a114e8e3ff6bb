"""What befalls a simulated swarm while it agrees, until all settles."""

from dataclasses import dataclass
from typing import Final

from shoal.training.votes import Step
from shoal.transport.port import PeerId


@dataclass(frozen=True)
class Mood:
    """Of the weather until all settles: each is after something else, and a run has one of them."""

    delay_s: float = 0.2  # scale of what messages take
    loss: float = 0.02
    doubling: float = 0.05
    crash: float = 0.001  # at each effect
    down_s: float = 5.0  # at most, then a member starts again
    partitions: int = 2
    hunts: float = 0.0  # share of attempts in which one is to decide alone: `Hunt`
    exiles: int = 0  # members who are cut off one after the other, for long
    is_siege: bool = False  # more and more are cut off; at last the others are parted, and liars alone reach both sides


MOODS: Final = {
    "slow": Mood(delay_s=1.5, loss=0.1),
    "parted": Mood(partitions=8),
    "hunting": Mood(hunts=0.6, partitions=0, crash=0.0),
    "deadly": Mood(crash=0.01, down_s=1.0, hunts=0.4),
    "banishing": Mood(exiles=5, partitions=0),
    "besieging": Mood(is_siege=True, partitions=0, crash=0.0),
}


@dataclass(frozen=True)
class Hunt:
    """One attempt in which messages are lost so that one member sees a quorum's precommits and is then cut off, while
    those who made the quorum with it are bound, and the rest saw too little to be, yet enough to go on.
    """

    target: PeerId
    bound: frozenset[PeerId]  # a smallest quorum, the target among them
    doubter: PeerId | None  # hears of no proposal
    told: PeerId | None  # of the bound ones, whose votes the rest hears

    def loses(self, sender: PeerId, receiver: PeerId, step: Step | None) -> bool:
        """Whether a proposal (of no step) or a vote is lost on its way."""
        if step is None:
            return receiver == self.doubter
        if receiver == self.target or (step is Step.PREVOTE and receiver in self.bound):
            return False
        return sender in self.bound and (sender != self.told or receiver in self.bound)
