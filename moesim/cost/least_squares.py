"""The smallest soft-L1 loss of residuals, inside a box of parameters.

Soft L1 because measured tables hold isolated rows several times too slow (failed kernel choices), which squares would
chase.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LOSS_SCALE = 0.1  # log error from which the loss grows linearly: kernels repeat to some 5 %


def soft_l1_minimum(
    residuals: Callable[[np.ndarray], np.ndarray],
    jacobian: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    evaluations: int,
) -> tuple[np.ndarray, float]:
    """Minimise the soft-L1 loss of residuals, each taken ``counts`` times, inside a box; (x, loss).

    Levenberg (1944), Marquardt (1963) on the normal equations, rows weighted by the slope of the loss, parameters held
    at a bound that they push against. With ten parameters and thousands of rows this takes a tenth of the time of
    `scipy.optimize.least_squares`, whose steps each factor the whole Jacobian.
    """

    def loss_and_weight(r: np.ndarray) -> tuple[float, np.ndarray]:
        root = np.sqrt(1 + (r / LOSS_SCALE) ** 2)
        return float(np.sum(counts * (root - 1))) * LOSS_SCALE**2, counts / root

    r = residuals(x)
    loss, weight = loss_and_weight(r)
    damping, spent = 1e-2, 1
    while spent < evaluations and damping < 1e6:
        slopes = jacobian(x)
        gradient = slopes.T @ (weight * r)
        free = ~(((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0)))
        slopes, gradient = slopes[:, free], gradient[free]
        curvature = slopes.T @ (weight[:, None] * slopes)
        before = loss
        while spent < evaluations and damping < 1e6:
            scaled = curvature + np.diag(damping * (np.diag(curvature) + 1e-9))
            trial = x.copy()
            trial[free] = np.clip(x[free] - np.clip(np.linalg.solve(scaled, gradient), -2, 2), low[free], high[free])
            trial_r = residuals(trial)
            trial_loss, trial_weight = loss_and_weight(trial_r)
            spent += 1
            if trial_loss < loss:
                x, r, loss, weight, damping = trial, trial_r, trial_loss, trial_weight, damping / 4
                break
            damping *= 5
        if before - loss < 1e-5 * before:
            break
    return x, loss
