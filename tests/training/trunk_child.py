"""A program for test_trunk_service.py: gets all activations, and prints the first text of each chunk that it makes."""

import sys
import time
from pathlib import Path

import numpy as np

from shoal.training.trunk_service import CHUNK_TEXTS, Keep, Trunk, activations

WIDTH = 4
LENGTHS = [1 + text % 5 for text in range(3 * CHUNK_TEXTS + 7)]


def compute(chunk: range) -> np.ndarray:
    print(chunk.start, flush=True)
    time.sleep(1e9 if sys.argv[2] == "hang" else 0.3)
    return np.concatenate([np.full((LENGTHS[text], WIDTH), text, np.float32) for text in chunk])


activations(Trunk("one", LENGTHS, WIDTH, compute), Keep(Path(sys.argv[1]), lambda done, texts: None))
