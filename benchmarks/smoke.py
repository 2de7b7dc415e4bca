"""GPT-2 Medium's geometry where there is no GPU: three steps of ours and of P1, to see that they run and agree."""

import time
from dataclasses import replace

from benchmarks import peers, workloads
from trainables.data.splits import mean_loss
from trainables.engine.pack import Pack
from trainables.spec import TrialSpec

STEPS, TRIALS = 3, 2


def gpt2_medium() -> str:
    """Train some trials both ways and return speeds and losses in words."""
    try:
        workload = replace(workloads.gpt2_medium(STEPS), pack_size=TRIALS)
    except FileNotFoundError as error:
        return f"gpt2-medium: skipped, {error.filename} is not there"
    configs = workloads.configs(TRIALS)
    pack = Pack.of(workload, workload.micro_batch)
    slots = [pack.admit(workload, TrialSpec.from_config(config)) for config in configs]
    started = time.perf_counter()
    while any(slot.learner.step < STEPS for slot in slots):
        pack.step(slots)
    our_speed = sum(slot.learner.tokens for slot in slots) / (time.perf_counter() - started)
    our_losses = [mean_loss(pack.splits.validation, losses or []) for losses in pack.evaluate(slots, "validation")]
    tokens, seconds, losses = 0, 0.0, []
    for config in configs:
        trial = peers.Expert(workload, config)
        started = time.perf_counter()
        trial.train(STEPS)
        tokens, seconds = tokens + trial.tokens, seconds + time.perf_counter() - started
        losses.append(trial.evaluate(trial.splits.validation))
        trial.close()
    loss_pairs = ", ".join(f"{a:.4f} and {b:.4f}" for a, b in zip(our_losses, losses, strict=True))
    return f"gpt2-medium: ours {our_speed:.0f}, P1 {tokens / seconds:.0f} tokens/s; losses {loss_pairs}"
