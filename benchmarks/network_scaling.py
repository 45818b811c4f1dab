"""Draw the time of pricing one uneven all-to-all against its ranks, 8 to 8,960, in reports/figures/network_scaling.png.

CPU time of one core, so that a busy machine draws the same picture.
"""

import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from test_network import cube, switch, uneven

from moesim.network.collectives import all_to_all

SWITCHES = (8, 16, 32, 72, 128, 256, 512, 1024, 2048, 4096)
TORI = ((2, 2, 2), (2, 2, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16), (16, 16, 16))
POD = ((16, 20, 28),)


def fastest_s(network, ranks: int, rounds: int) -> float:
    """CPU seconds, the least of several rounds."""
    traffic, times = uneven(ranks), []
    for _ in range(rounds):
        begin = time.process_time()
        all_to_all(network, np.arange(ranks), traffic)
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    """Measure and draw."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    series = {
        "NVLink switch": [(n, fastest_s(switch(n), n, 5)) for n in SWITCHES],
        "3-D torus": [(int(np.prod(s)), fastest_s(cube(*s), int(np.prod(s)), 5)) for s in TORI + POD],
    }
    for name, points in series.items():
        axes.loglog(*zip(*points, strict=True), "o-", label=name)
        print(name, *(f"{n}: {s * 1e3:.1f} ms" for n, s in points), sep="\n  ")
    axes.loglog(1024, 50e-3, "kv", label="asked: 50 ms at 1,024")
    axes.loglog(4096, 2, "k^", label="asked: 2 s at 4,096")
    axes.set(xlabel="ranks of one all-to-all", ylabel="CPU seconds to price it", title="Uneven all-to-all, one core")
    axes.legend()
    axes.grid(alpha=0.3)
    path = Path(__file__).parents[1] / "reports" / "figures" / "network_scaling.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(path.relative_to(path.parents[2]))


if __name__ == "__main__":
    main()
