"""Where kernels of a server are priced: tables hold their seconds at these points and are interpolated between them."""

from __future__ import annotations

import numpy as np

TOKENS = np.unique(np.rint(2.0 ** np.arange(0, 15.01, 0.5)).astype(int))  # 1 … 32,768
SEQUENCES = np.unique(np.rint(2.0 ** np.arange(0, 11.01, 0.5)).astype(int))  # 1 … 2,048
CONTEXTS = np.array([1, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072])
PROMPTS = np.array([1, 2, 4, 8, 16, 32, 64])
LENGTHS = np.array([16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072])
# Servers pad steps to graphs of multiples of 8 sequences. Several block-scaled products of the tables take a path some
# six times as slow for other row counts, which no server meets.
PADDED = np.maximum(8, -(-TOKENS // 8) * 8)
