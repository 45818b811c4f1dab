"""The ``speculative:`` block of a decode workload."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.spec.model.file import load_model
from moesim.spec.reading.kinds import kinds
from moesim.spec.reading.loading import Spec
from moesim.workload.deployment import Deployment
from moesim.workload.speculative import Draft, model_deployment, mtp_deployment


def _mtp(deployment: Deployment, file: str) -> Deployment:
    """The model's own multi-token-prediction layer, run once for each drafted token."""
    return mtp_deployment(deployment)


def _model(deployment: Deployment, file: str, *, model: str) -> Deployment:
    """A dense model on the same devices, run once for each drafted token."""
    return model_deployment(deployment, load_model(model, beside=file, field="draft.model"))


def _lookup(deployment: Deployment, file: str) -> None:
    """Tokens that followed the same ones before (prompt lookup, n-grams): drafting costs nothing."""


DRAFTS = {"mtp": _mtp, "model": _model, "lookup": _lookup}


class Speculative(Spec):
    """Draft tokens and check them in one step.

    draft_tokens: of every sequence a step. acceptance: chance that one is kept given that those before it are; measure
    it, moesim does not guess it. cache_reads: `once` where kernels pack the tokens of a sequence, `each_token`
    where they were not made for several and read its cache for each.
    """

    draft_tokens: Annotated[int, Field(ge=1, le=64)]
    acceptance: Annotated[float, Field(ge=0, le=1)]
    draft: kinds(DRAFTS)
    cache_reads: Literal["once", "each_token"] = "once"

    def build(self, deployment: Deployment, file: str) -> Draft:
        """What drafts. Raises InvalidInput with fields below ``workload.speculative``."""
        own = DRAFTS[self.draft.kind](deployment, file, **self.draft.options())
        return Draft(self.draft_tokens, self.acceptance, own, shares_ends=self.draft.kind == "mtp")
