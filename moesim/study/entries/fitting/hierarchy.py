"""A robust hierarchical fit: what all stacks share, and what one stack and one format add to it.

Of a published figure the logarithm of the factor that its simulated time wants is explained by

    ln (device² + host²)^½ + scan · scans / total   plus   ln (1 + e^θ_bubble · bubble / (1 − bubble))
        plus   ageing · age
    device = Σ_k e^θ_k · share_k, without the bubble;  host = (host · passes + expert · expert passes) / total

A host launches while the device computes, so that the longer of both shows, rounded as products and their traffic are
(`moesim.cost.gemm`); it waits for the device wherever it reads routing, which is why the shorter one shows at all.
Where it launches a forward and a backward pass in turn and waits for the routing of each, it takes turns with compute,
and only exchanges run beside it: compute + (exchange² + host²)^½. A pipeline's bubble is as many passes long whatever a
pass takes, and stretches with them.

θ_k = all + stack + format: the format of the products has terms of its own for kinds of work that multiply matrices in
it (`BY_FORMAT`) alone; launches, exchanges, bubbles and ageing are those of the stack, whatever the format. host,
expert, scan and ageing are exponentials of such sums, so that no sign can come out wrong. Every term is drawn to zero
(ridge), the more the fewer figures speak for it, so that a format of one model borrows from the others and an unseen
stack gets what all share. Errors beyond `LOSS_SCALE` count linearly (soft L1), prior terms quadratically.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.cost.launch import EAGER_CALL_S
from moesim.study.entries.calibration.factors import BUBBLE, EXCHANGE, combined
from moesim.study.entries.runs.outcome import Outcome

LOSS_SCALE = 0.12  # of log errors; beyond it a figure counts linearly
BY_FORMAT = ("experts", "dense")
HOST, EXPERT, SCAN, AGEING = "host_s", "expert_s", "scan_s", "ageing"
# Where a constant is drawn to: a layer's hundred kernels forward and back launched at some 10 µs each; the six products
# of an expert in such a pass at `moesim.cost.launch.EAGER_CALL_S`; 1 s for 10^12 elements of states; a tenth of the
# time a year.
CENTRE = {HOST: 1e-3, EXPERT: 6 * EAGER_CALL_S, SCAN: 1.0, AGEING: 0.1}


@dataclass(frozen=True, slots=True)
class Spreads:
    """Standard deviations of the terms, in log units. all, stack, format: of a kind's factor. constants, own: of the
    constants, in all and of one stack."""

    all: float = 0.4
    stack: float = 0.2
    format: float = 0.2
    constants: float = 1.0
    own: float = 0.3


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. stack, format: of its software, format empty where runs of all formats are alike."""

    stack: str
    format: str
    outcome: Outcome
    age: float
    wanted: float


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """Fitted terms: {(level, name, of whom): log units}."""

    kinds: tuple[str, ...]
    values: Mapping[tuple[str, str, str], float]

    def factor(self, kind: str, stack: str, form: str) -> float:
        """The factor on a kind of work."""
        found = self._sum(kind, stack) + self.values.get(("format", kind, form), 0.0)
        return float(np.exp(found))

    def constant(self, name: str, stack: str) -> float:
        """host_s, expert_s, scan_s or ageing."""
        return CENTRE[name] * float(np.exp(self._sum(name, stack)))

    def _sum(self, name: str, stack: str) -> float:
        return self.values.get(("all", name, ""), 0.0) + self.values.get(("stack", name, stack), 0.0)


def fit_terms(rows: Sequence[Row], spreads: Spreads = Spreads()) -> Terms:
    """The terms that explain rows of one kind of run best."""
    from scipy.optimize import least_squares

    problem = _Problem(rows, spreads)
    start = np.zeros(len(problem.names))
    found = least_squares(problem.residuals, start, jac=problem.jacobian, loss=problem.loss, f_scale=1.0)
    return Terms(problem.kinds, dict(zip(problem.names, found.x.tolist(), strict=True)))


class _Problem:
    """Residuals in units of their spread: those of figures first, then every term's own."""

    def __init__(self, rows: Sequence[Row], spreads: Spreads):
        self.kinds = tuple(sorted({kind for row in rows for kind in row.outcome.seconds if kind != "idle"}))
        self._count = len(rows)
        self._exponents = (*self.kinds, HOST, EXPERT, SCAN, AGEING)
        self.names, widths, uses = [], [], []
        for level, name, of, width, used in _levels(rows, self._exponents, spreads):
            self.names.append((level, name, of))
            widths.append(width)
            uses.append(used)
        self._widths = np.array(widths)
        column = {name: position for position, name in enumerate(self._exponents)}
        # [row, exponent, term]: whether the term counts for the exponent of the row.
        self._design = np.zeros((len(rows), len(column), len(self.names)))
        for position, ((_, name, _), used) in enumerate(zip(self.names, uses, strict=True)):
            self._design[used, column[name], position] = 1.0
        total = np.array([sum(row.outcome.seconds.values()) for row in rows])
        amounts = [[row.outcome.seconds.get(kind, 0.0) for kind in self.kinds] for row in rows]
        amounts = np.array(amounts).reshape(len(rows), len(self.kinds)) / total[:, None]
        self._rest = 1 - amounts.sum(axis=1)
        bubble = np.array([kind == BUBBLE for kind in self.kinds], dtype=bool)
        amounts[:, bubble] /= 1 - amounts[:, bubble]
        passes = CENTRE[HOST] * np.array([row.outcome.passes for row in rows])
        experts = CENTRE[EXPERT] * np.array([row.outcome.expert_passes for row in rows])
        scans = CENTRE[SCAN] * np.array([row.outcome.scans for row in rows])
        self._shares = np.column_stack([amounts, np.column_stack([passes, experts, scans]) / total[:, None]])
        # Which columns of shares are of the device, the host, scans and the bubble.
        of = np.array([*np.where(bubble, "bubble", "device"), "host", "host", "scan"])
        self._exchange = np.array([kind == EXCHANGE for kind in (*self.kinds, HOST, EXPERT, SCAN)], dtype=bool)
        self._of = {name: of == name for name in ("device", "host", "scan", "bubble")}
        self._serial = np.array([row.outcome.serial for row in rows], dtype=bool)
        self._age = np.array([row.age for row in rows])
        self._wanted = np.log([row.wanted for row in rows])

    def _parts(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(weighted shares [row, exponent], their sums of each kind [kind, row], ageing [row])."""
        exponents = self._design @ x
        weighted = self._shares * np.exp(exponents[:, :-1])
        sums = np.array([weighted[:, columns].sum(axis=1) for columns in self._of.values()])
        sums[0] = np.maximum(sums[0] + self._rest, 1e-9)
        return weighted, sums, CENTRE[AGEING] * np.exp(exponents[:, -1])

    def _beside(self, weighted: np.ndarray, device: np.ndarray) -> np.ndarray:
        """[row] what of the device's seconds the host launches beside."""
        return np.where(self._serial, weighted[:, self._exchange].sum(axis=1), device)

    def residuals(self, x: np.ndarray) -> np.ndarray:
        weighted, sums, ageing = self._parts(x)
        seconds = combined(*sums, self._beside(weighted, sums[0]))
        missed = np.log(seconds) + ageing * self._age - self._wanted
        return np.concatenate([missed / LOSS_SCALE, x / self._widths])

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        weighted, (device, host, scan, bubble), ageing = self._parts(x)
        beside = self._beside(weighted, device)
        both = np.maximum(np.hypot(beside, host), 1e-12)
        whole = device - beside + both + scan
        launched = beside / both / whole
        kinds = {
            "device": np.where(self._serial, 1 / whole, launched),
            "host": host / both / whole,
            "scan": 1 / whole,
            "bubble": 1 / (1 + bubble),
        }
        slopes = sum(slope[:, None] * self._of[name] for name, slope in kinds.items())
        slopes = weighted * np.where(self._exchange, launched[:, None], slopes)
        slopes = np.column_stack([slopes, ageing * self._age])
        figures = np.einsum("re,ret->rt", slopes, self._design) / LOSS_SCALE
        return np.concatenate([figures, np.diag(1 / self._widths)])

    def loss(self, z: np.ndarray) -> np.ndarray:
        """Soft L1 of figures, squares of terms; with two derivatives, as scipy asks."""
        root = np.sqrt(1 + z)
        rho = np.array([2 * (root - 1), 1 / root, -0.5 / root**3])
        rho[0, self._count :] = z[self._count :]
        rho[1, self._count :], rho[2, self._count :] = 1.0, 0.0
        return rho


def _levels(rows: Sequence[Row], exponents: Sequence[str], spreads: Spreads):
    """(level, name, of whom, spread, rows [bool]) of every term."""
    stack, form = (np.array([getattr(row, name) for row in rows]) for name in ("stack", "format"))
    everyone = np.ones(len(rows), dtype=bool)
    for name in exponents:
        constant = name in CENTRE
        yield "all", name, "", spreads.constants if constant else spreads.all, everyone
        for of in np.unique(stack):
            yield "stack", name, str(of), spreads.own if constant else spreads.stack, stack == of
    for name in BY_FORMAT:
        if name in exponents:
            for of in np.unique(form):
                if of:
                    yield "format", name, str(of), spreads.format, form == of
