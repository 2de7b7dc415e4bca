"""What ours is measured against: P0, as the tutorials have it, P1 and P1+, as experts write it, and P2, the floor.

None of them uses the packed engine, PEFT's audit or the fused loss; the data and the configurations are the same.
"""

import time
from functools import lru_cache
from typing import Any

from analysis.results.trial_config import TrialConfig
from benchmarks import workloads
from trainables.spec import TrialSpec, Workload


def tutorial(config: dict[str, Any], workload: Workload) -> None:
    """P0: everything in the trial, with Hugging Face's ``Trainer``."""
    import torch
    from peft import LoraConfig, get_peft_model
    from ray import tune as ray_tune
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from trainables.data.collate import collate
    from trainables.models.files import resolve
    from trainables.training.losses import batch_order

    torch.set_num_threads(workload.threads)
    splits = workloads.splits(workload)
    trial_config = TrialConfig.from_ray(config)
    spec = TrialSpec.from_config(trial_config)
    model = AutoModelForCausalLM.from_pretrained(resolve(workload.model), dtype=torch.float32)
    torch.manual_seed(spec.seed)
    model = get_peft_model(model, LoraConfig(**workloads.lora(workload, trial_config)))

    def collated(examples: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(examples, 0, "cpu")
        return {**batch.inputs, "labels": batch.labels}

    order = batch_order(len(splits.train), workload.batch_size, workload.steps, spec.seed)
    arguments = TrainingArguments(
        output_dir=ray_tune.get_context().get_trial_dir(), max_steps=workload.steps, learning_rate=spec.learning_rate,
        per_device_train_batch_size=workload.batch_size, per_device_eval_batch_size=workload.batch_size,
        max_grad_norm=workload.clip_norm, weight_decay=0.0, lr_scheduler_type="linear", warmup_steps=1,
        train_sampling_strategy="sequential", remove_unused_columns=False, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=workload.device == "cpu", bf16=workload.device == "cuda", seed=spec.seed,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, data_collator=collated, eval_dataset=list(splits.validation),
        train_dataset=[splits.train[index] for batch in order for index in batch],
    )  # fmt: skip
    trainer.train()
    losses = [trainer.evaluate(list(split))["eval_loss"] for split in (splits.validation, splits.test)]
    ray_tune.report({"eval_loss": losses[0], "test_loss": losses[1]})


@lru_cache(maxsize=1)
def _loaded(model: str, source: Any, device: str) -> tuple[Any, Any]:
    """Return base and data, loaded once per process."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainables.data.splits import load_splits
    from trainables.models.files import resolve

    base = AutoModelForCausalLM.from_pretrained(resolve(model), dtype=torch.float32).to(device)
    return base, load_splits(source, model)


class Expert:
    """P1: a plain loop on a base that stays loaded, fused AdamW, one thread.

    Args:
        workload: Workload that all trials share.
        config: Configuration of the trial.
    """

    def __init__(self, workload: Workload, config: TrialConfig) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        from trainables.training.losses import batch_order, learning_rate_factor

        torch.set_num_threads(workload.threads)
        base, self.splits = _loaded(workload.model, workload.data, workload.device)
        self.workload, spec = workload, TrialSpec.from_config(config)
        torch.manual_seed(spec.seed)
        self.model = get_peft_model(base, LoraConfig(**workloads.lora(workload, config)))
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=spec.learning_rate, weight_decay=0.0, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, workload.steps, workload.warmup)
        )
        self.order = batch_order(len(self.splits.train), workload.batch_size, workload.steps, spec.seed)
        self.step, self.tokens = 0, 0

    def train(self, steps: int) -> None:
        import torch

        for indices in self.order[self.step : self.step + steps]:
            self._loss([self.splits.train[index] for index in indices]).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.workload.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.step += 1
            self.tokens += sum(self.splits.train[index].learned_tokens for index in indices)

    def evaluate(self, examples: Any) -> float:
        import torch

        total, size = 0.0, self.workload.batch_size
        with torch.inference_mode():
            for start in range(0, len(examples), size):
                batch = examples[start : start + size]
                total += self._loss(batch).item() * sum(example.learned_tokens for example in batch)
        mean: float = total / sum(example.learned_tokens for example in examples)
        return mean

    def close(self) -> None:
        self.model.unload()

    def _loss(self, examples: Any) -> Any:
        import torch

        from trainables.data.collate import collate

        batch = collate(examples, 0, self.workload.device)
        with torch.autocast(self.workload.device, torch.bfloat16, enabled=self.workload.device == "cuda"):
            return self.model(**batch.inputs, labels=batch.labels).loss


def expert(config: dict[str, Any], workload: Workload) -> None:
    """P1 as a function trainable; Ray reuses its process."""
    from ray import tune as ray_tune

    trial = Expert(workload, TrialConfig.from_ray(config))
    try:
        trial.train(workload.steps)
        losses = [trial.evaluate(split) for split in (trial.splits.validation, trial.splits.test)]
        ray_tune.report({"eval_loss": losses[0], "test_loss": losses[1]})
    finally:
        trial.close()


class ExpertPlus:
    """P1+: one trial alone, as fast as it is known how: fixed shapes, nothing read back, a CUDA graph of all of a step.

    The base is in bfloat16 on a GPU, and in float32 on a CPU, where nothing is captured.

    Args:
        workload: Workload that all trials share.
        config: Configuration of the trial.
    """

    def __init__(self, workload: Workload, config: TrialConfig) -> None:
        import torch

        from trainables.adapters import peft_adapter
        from trainables.engine.captured_passes import CapturedPasses
        from trainables.models.base_model import load
        from trainables.models.device import device_of
        from trainables.training.inputs import splits_of
        from trainables.training.losses import batch_order

        spec, on_gpu = TrialSpec.from_config(config), workload.device == "cuda"
        base, self.workload = load(workload.model, workload.device, workload.precision), workload
        self.train_split = splits_of(workload).train
        self.base, self.model = base, peft_adapter.attach_planned(base, workload, spec)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        rate = torch.tensor(spec.learning_rate, device=workload.device) if on_gpu else spec.learning_rate
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.0, fused=True, capturable=on_gpu)
        self.order = batch_order(len(self.train_split), workload.batch_size, workload.steps, spec.seed)
        self.passes = CapturedPasses(device_of(workload.device).graphs(), [])
        shape = workload.batch_size, max(len(example.input_ids) for example in self.train_split)
        self.ids, self.labels = (torch.zeros(shape, dtype=torch.long, device=workload.device) for _ in range(2))
        self.step = 0

    def train(self, steps: int) -> int:
        """Train so many steps, nothing read until the end; return the learned tokens."""
        import torch

        from trainables.data.splits import IGNORED

        tokens, length, losses = 0, self.ids.shape[1], []
        for _ in range(steps):
            rows = [self.train_split[index] for index in self.order[self.step % len(self.order)]]
            for memory, name, empty in ((self.ids, "input_ids", 0), (self.labels, "labels", IGNORED)):
                filled = [(*getattr(row, name), *[empty] * (length - len(row.input_ids))) for row in rows]
                memory.copy_(torch.tensor(filled), non_blocking=True)
            losses.append(self.passes.do((0,), self._work))
            self.step += 1
            tokens += sum(row.learned_tokens for row in rows)
        assert torch.stack(losses).isfinite().all()
        return tokens

    def close(self) -> None:
        from trainables.adapters import peft_adapter

        peft_adapter.detach(self.model)

    def _work(self) -> Any:
        import torch

        from trainables.models.transformers_compat import rows_known

        with self.base.autocast(), rows_known(joined=False):
            loss = self.model(input_ids=self.ids, labels=self.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.workload.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return loss.detach()


class Experts:
    """A warm process of P1: trains trials one after the other."""

    def train(self, workload: Workload, configs: list[TrialConfig], steps: int) -> int:
        """Train each a few steps and return the learned tokens."""
        tokens = 0
        for config in configs:
            trial = Expert(workload, config)
            trial.train(steps)
            tokens += trial.tokens
            trial.close()
        return tokens


def floor_seconds(base: Any, passes: list[Any]) -> float:
    """P2: seconds of forward and activation gradients through the base alone.

    Args:
        base: A ``BaseModel``.
        passes: Batches.
    """
    from trainables.training.losses import token_losses

    def open_gradients(_: Any, __: Any, output: Any) -> Any:
        return output.requires_grad_()

    handle = base.model.get_input_embeddings().register_forward_hook(open_gradients)
    started = time.perf_counter()
    try:
        for batch in passes:
            with base.autocast():
                losses = token_losses(base.model, batch.inputs, batch.labels, base.separable_head)[0]
            losses.mean().backward()  # type: ignore[no-untyped-call]
    finally:
        handle.remove()
    return time.perf_counter() - started
