"""What a swarm is compared with: one member alone, and synchronous data parallel training, at equal tokens per member.

Synchronous training of M members averages their gradients after every step. That is one gradient over M batches, so it
runs here as one loop with batches M times as large, drawn from the whole text.
"""

from collections.abc import Iterator

from .checkpoint import Local
from .diloco_settings import parse_settings
from .local_trainer import LocalTrainer
from .method import Turn
from .methods import MemberOptions, gpt_trainer, with_settings
from .spec import Spec

MEMBER = "alone"  # the only member there is: all of the text is its shard


def alone(spec: Spec, options: MemberOptions, rounds: int) -> Iterator[float]:
    """Validation loss after each of `rounds` times H steps of one member that has all of the text to itself.

    Raises:
        ValueError: this machine cannot train this spec; its text says why.
    """
    return _curve(_trainer(spec, options), spec, rounds)


def synchronous(spec: Spec, options: MemberOptions, members: int, rounds: int) -> Iterator[float]:
    """The same for `members` members that average their gradients after every step.

    Raises:
        ValueError: this machine cannot train this spec; its text says why.
    """
    settings = parse_settings(spec.settings)
    if isinstance(settings, str):
        raise ValueError(settings)
    larger = with_settings(spec, batch_size=settings.batch_size * members)
    return _curve(_trainer(larger, options), larger, rounds)


def _trainer(spec: Spec, options: MemberOptions) -> LocalTrainer:
    trainer = gpt_trainer(spec, options)
    if isinstance(trainer, str):
        raise ValueError(trainer)
    return trainer


def _curve(trainer: LocalTrainer, spec: Spec, rounds: int) -> Iterator[float]:
    parameters, local = trainer.start(), Local()
    for round_ in range(1, rounds + 1):
        seed = (spec.seed << 32) + round_
        turn = Turn(round_, round_ - 1, MEMBER, (MEMBER,), seed, float("inf"), lambda: 0.0, lambda: False)
        trained = trainer.train(parameters, local, turn)
        parameters, local = trained.parameters, Local(trained.moments)
        yield trainer.evaluate(parameters)["validation_loss"]
