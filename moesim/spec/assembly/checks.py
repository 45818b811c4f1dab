"""What one step cannot have although each key by itself is right; told before anything is priced."""

from __future__ import annotations

from moesim.cost.exchange import KERNELS, check_kernel
from moesim.errors import InvalidInput, Problem
from moesim.hardware.topology import Cluster
from moesim.spec.assembly.parts import parallelism_of
from moesim.spec.step.scenario import Scenario
from moesim.workload.micro_batch import CUTS
from moesim.workload.overlap import MICROBATCHES


def check_all_to_all(scenario: Scenario, cluster: Cluster) -> None:
    """Refuse an expert-parallel kernel that cannot run here, before anything is priced."""
    degrees = parallelism_of(scenario)
    if degrees.attention_dp * degrees.cp > 1 and degrees.ep > 1:
        domains = cluster.domain[degrees.ep_groups]
        crosses = bool((domains != domains[:, :1]).any())
        try:
            check_kernel(scenario.network.all_to_all, cluster.hardware.device, crosses)
        except InvalidInput as error:
            raise InvalidInput(Problem(str(error), "all_to_all")) from None


def check_pipeline(scenario: Scenario) -> None:
    """Refuse micro-batches and sequences that the degrees cannot cut."""
    degrees, work, problems = scenario.parallelism, scenario.workload, []
    parts, sequences = degrees.microbatches or degrees.pp, work.sequences_per_rank
    if sequences < parts:
        problems.append(
            Problem(
                f"{sequences} sequences cannot fill {parts} micro-batches; write at least {parts}, or fewer "
                "parallelism.microbatches",
                "workload.sequences_per_rank",
            )
        )
    if parts > 1 and (scenario.offload is not None or getattr(work, "speculative", None) is not None):
        message = "offloaded experts and drafted tokens are simulated on one stage and micro-batch; write pp: 1"
        problems.append(Problem(message, "parallelism.pp" if degrees.pp > 1 else "parallelism.microbatches"))
    if degrees.sequence_parallel and degrees.tp == 1:
        problems.append(Problem("needs tp above 1; leave it out", "parallelism.sequence_parallel"))
    prompt = getattr(work, "prompt", None)
    if degrees.cp > 1 and prompt is not None and prompt < 2 * degrees.cp:
        message = f"cp cuts a prompt into {2 * degrees.cp} runs, but it has {prompt} tokens; write {prompt // 2 or 1}"
        problems.append(Problem(message, "parallelism.cp"))
    if degrees.cp > 1 and prompt is None and work.context + 1 < degrees.cp:
        problems.append(
            Problem(f"a context of {work.context} tokens does not divide over {degrees.cp} ranks", "parallelism.cp")
        )
    if problems:
        raise InvalidInput(problems)


def check_overlap(scenario: Scenario) -> None:
    """Refuse an overlap that this step cannot have."""
    overlap, problems = scenario.overlap, []
    hooks = overlap.kind == "low_latency_hooks" or getattr(overlap, "hooks", False)
    if hooks and not KERNELS[scenario.network.all_to_all].hooks:
        fitting = ", ".join(name for name, kernel in KERNELS.items() if kernel.hooks)
        field = "overlap.kind" if overlap.kind == "low_latency_hooks" else "overlap.hooks"
        problems.append(
            Problem(f"{scenario.network.all_to_all} has no hooks; write network.all_to_all: {fitting}", field)
        )
    batches = MICROBATCHES.get(overlap.kind, 1)
    parts = scenario.parallelism.microbatches or scenario.parallelism.pp
    sequences, batches = scenario.workload.sequences_per_rank, parts * batches
    if sequences < batches:
        problems.append(
            Problem(
                f"{overlap.kind} cuts a rank's sequences into {batches}; write at least {batches}, not {sequences}",
                "workload.sequences_per_rank",
            )
        )
    if overlap.kind == "pipelined_chunks":
        problems += _wrong_chunks(scenario)
    if problems:
        raise InvalidInput(problems)


def _wrong_chunks(scenario: Scenario) -> list[Problem]:
    overlap, problems = scenario.overlap, []
    if overlap.by not in CUTS:
        problems.append(Problem(f"{overlap.by!r} is unknown; write {' or '.join(CUTS)}", "overlap.by"))
    slots = getattr(scenario.placement, "slots_per_rank", None)
    work = scenario.workload
    tokens = work.sequences_per_rank * getattr(work, "prompt", 1)
    most = slots if overlap.by == "experts" else tokens
    if overlap.chunks < 1 or (most and overlap.chunks > most):
        problems.append(
            Problem(
                f"{overlap.by} make at most {most} chunks a rank; write 1 to {most}, not {overlap.chunks}",
                "overlap.chunks",
            )
        )
    return problems
