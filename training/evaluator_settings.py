"""What is trained by forward passes alone, and on how many samples: names, bounds and meanings in a spec."""

from typing import Annotated, Literal

import msgspec

Train = Literal["last_norms", "norms", "lora", "last_layers", "all"]
Count = Annotated[int, msgspec.Meta(ge=1, le=65_536)]


class EvaluatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All have defaults. Of SmolLM2-135M the five ways of `train` mean 7,488, 35,136, 460,800, 21.2 million and 134.5
    million parameters.
    """

    # Gains of the norms of the last `layers` layers and after them; of all norms; low-rank matrices beside q and v; all
    # of the last `layers` layers and the norm after them; everything. None: last_norms; all for the embedded GPT.
    train: Train | None = None
    layers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 6
    rank: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8  # of lora

    batch_size: Count = 8  # samples per direction, sentences or windows

    # The sentiment task. A sentence costs SmolLM2 18 ms of one core once, where its last layers are trained.
    train_sentences: Annotated[int, msgspec.Meta(ge=2, le=65_536)] = 400  # half of them of either kind
    evaluation_sentences: Annotated[int, msgspec.Meta(ge=2, le=65_536)] = 200

    # Texts of bytes.
    context: Count = 128  # bytes per window
    validation_windows: Count = 64
