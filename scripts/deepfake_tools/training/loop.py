"""The training loop: transformers' Trainer, its checkpoints, and where a killed run goes on."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_deepfake.encoder import DetectorModule
from clip_deepfake.loading import worker_device
from safetensors.torch import load_file, save
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
)

from deepfake_tools.files import replacing_bytes
from deepfake_tools.progress import Progress
from deepfake_tools.training.dataset import TrainingError
from deepfake_tools.training.fitting import Margins
from deepfake_tools.training.losses import alignment, uniformity
from deepfake_tools.training.methods import Penalty, parameter_groups
from deepfake_tools.training.pixels import BalancedPairs, ImageSet, collate
from deepfake_tools.training.recipes import Recipe

COMPLETE = "complete"
"""Name of the empty file that a checkpoint holds as soon as it is whole."""

BEST = "best.safetensors"
AUC = "eval_auc"
"""transformers' name for the validation's figure in its log."""

LOGS_AN_EPOCH = 20


@dataclass(frozen=True)
class LoopOptions:
    """What does not change what is learned, but for rounding.

    Attributes:
        folder: of checkpoints.
        accumulate: parts that a batch is computed in, one after the other.
        checkpointing: whether activations are computed again instead of kept.
        bfloat16: whether the encoder's products are computed in it.
        workers: processes that prepare images; 0 prepares them between the steps.
        save_every: steps between checkpoints; there is one after each epoch as well.
        tensorboard: folder of logs; None for none.
    """

    folder: Path
    accumulate: int = 1
    checkpointing: bool = False
    bfloat16: bool = False
    workers: int = 1
    save_every: int = 200
    tensorboard: Path | None = None


@dataclass(frozen=True)
class Epoch:
    """What the log says of one.

    Attributes:
        loss: mean over its steps.
        auc: on the validation images, after it.
    """

    loss: float
    auc: float


class TrainedModule(nn.Module):
    """A detector's module with its losses; its state is what is trained, and nothing else."""

    def __init__(self, module: DetectorModule, recipe: Recipe, penalty: Penalty | None) -> None:
        """Puts the losses on a module.

        Args:
            module: prepared, with a head of two outputs.
            recipe: weighs the losses.
            penalty: added to each step's loss.
        """
        super().__init__()
        self.module = module
        self._recipe = recipe
        self._penalty = penalty

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Maps uint8 (batch, side, side, 3) to ``logits`` (batch, 2), with labels to ``loss`` too.

        Of several processes, each computes the losses over pairs on the images of all.
        """
        feature = self.module.feature(pixels)
        with torch.autocast(feature.device.type, enabled=False):
            logits = self.module.head(feature)
            if labels is None:
                return {"logits": logits}
            loss = functional.cross_entropy(logits, labels)
            if self.training:
                loss = loss + self._beside(feature, labels)
        return {"loss": loss, "logits": logits}

    def _beside(self, feature: Tensor, labels: Tensor) -> Tensor:
        """The losses beside the cross-entropy."""
        recipe, total = self._recipe, feature.new_zeros(())
        if recipe.uniformity or recipe.alignment:
            features, all_labels = _of_all(feature, labels)
            if recipe.uniformity:
                total = total + recipe.uniformity * uniformity(features, recipe.uniformity_t)
            if recipe.alignment:
                loss = alignment(features, all_labels, recipe.alignment_alpha)
                total = total + recipe.alignment * loss
        return total if self._penalty is None else total + self._penalty()

    def state_dict(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Returns the trained parameters, by name."""
        names = {name for name, p in self.named_parameters() if p.requires_grad}
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if name in names}


def _of_all(feature: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features, through which gradients flow, and labels of the images of all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return feature, labels
    others = [torch.empty_like(labels) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(others, labels.contiguous())
    features = all_gather(feature.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(list(features)), torch.cat(others)


class _Loop(Trainer):
    """Draws balanced batches, and stops at a loss that is no number."""

    pairs: BalancedPairs

    def _get_train_sampler(self, train_dataset: Any = None) -> BalancedPairs:
        return self.pairs

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Computes the loss, as ever.

        Raises:
            TrainingError: when it is NaN or infinite, naming the images.
        """
        rows = inputs.pop("rows")
        found = super().compute_loss(model, inputs, *args, **kwargs)
        loss = found[0] if isinstance(found, tuple) else found
        if not torch.isfinite(loss):
            images = self.train_dataset.images if model.training else self.eval_dataset.images  # type: ignore[union-attr]
            names = ", ".join(str(images[row].path) for row in rows.tolist())
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; take a lower "
                f"--learning-rate, or look at the images of this batch: {names}"
            )
        return found

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """What is not trained is in no checkpoint, which needs no warning."""
        if load_result.unexpected_keys:
            raise TrainingError(
                f"the checkpoint holds {load_result.unexpected_keys[0]}, which is not trained here"
            )


class _Guide(TrainerCallback):
    """Says when to log, judge, save and stop, keeps the best weights, and shows how far it is."""

    def __init__(
        self, model: TrainedModule, recipe: Recipe, options: LoopOptions, say: Callable[[str], None]
    ) -> None:
        self._model = model
        self._recipe = recipe
        self._options = options
        self._say = say
        self._bar: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self._bar = Progress(sys.stderr, "steps", state.max_steps, state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        steps = steps_of_epoch(state, self._recipe)
        within = state.global_step % steps
        # An epoch's last step is judged before it is saved, by what comes at its end.
        control.should_save = within > 0 and state.global_step % self._options.save_every == 0
        control.should_log = control.should_save or within % max(steps // LOGS_AN_EPOCH, 1) == 0
        if self._bar is not None:
            # From the end, since the log grows with the run.
            losses = (entry["loss"] for entry in reversed(state.log_history) if "loss" in entry)
            last = next(losses, None)
            self._bar.update(state.global_step, note="" if last is None else f"loss {last:.4f}")

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        control.should_log = control.should_evaluate = control.should_save = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._bar is not None:
            self._bar.clear()
        history = epochs_of(state.log_history)
        is_best = best_epoch(history) == len(history)
        if state.is_world_process_zero:
            if is_best:
                with replacing_bytes(self._options.folder / BEST) as file:
                    file.write(
                        save({n: t.contiguous().cpu() for n, t in self._model.state_dict().items()})
                    )
            last = history[-1]
            self._say(
                f"epoch {len(history)} of {self._recipe.epochs}: loss {last.loss:.4f}, validation "
                f"AUC {last.auc:.4f}" + (", the best so far" if is_best else "")
            )
        control.should_training_stop = is_finished(history, self._recipe)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            folder = self._options.folder / f"checkpoint-{state.global_step}"
            (folder / COMPLETE).touch()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._bar is not None:
            self._bar.clear()


def steps_of_epoch(state: TrainerState, recipe: Recipe) -> int:
    """Optimiser steps of each epoch."""
    return state.max_steps // recipe.epochs


def epochs_of(log: Sequence[Mapping[str, Any]]) -> list[Epoch]:
    """Reads the finished epochs off transformers' log."""
    epochs, losses, weights, last = [], [], [], 0
    for entry in log:
        if "loss" in entry:
            losses.append(entry["loss"])
            weights.append(entry["step"] - last)
            last = entry["step"]
        if AUC in entry:
            epochs.append(Epoch(float(np.average(losses, weights=weights)), entry[AUC]))
            losses, weights = [], []
    return epochs


def best_epoch(history: Sequence[Epoch]) -> int:
    """Number of the epoch with the highest validation AUC, from 1; of equal ones the first."""
    return 1 + int(np.argmax([epoch.auc for epoch in history]))


def is_finished(history: Sequence[Epoch], recipe: Recipe) -> bool:
    """Whether all epochs are done, or too many brought nothing."""
    if not history:
        return False
    waited = len(history) - best_epoch(history)
    return len(history) >= recipe.epochs or waited >= recipe.patience


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; None where there is none."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)


def run(
    model: TrainedModule,
    training: ImageSet,
    validation: ImageSet,
    recipe: Recipe,
    seed: int,
    options: LoopOptions,
    say: Callable[[str], None],
) -> list[Epoch]:
    """Trains, from the last checkpoint on, and leaves the best weights in the model.

    Args:
        model: prepared; its state afterwards is that of the best epoch.
        training: images to learn from.
        validation: images that choose the epoch.
        recipe: what to do.
        seed: of the order, of what happens to images, and of dropout.
        options: how to compute it.
        say: told of each epoch.

    Returns:
        The epochs, in order.

    Raises:
        TrainingError: when a loss is no number, or a checkpoint cannot be written.
    """
    arguments = _arguments(recipe, seed, options)
    found = last_checkpoint(options.folder)
    history = [] if found is None else epochs_of(_read_log(found))
    if not is_finished(history, recipe):
        if found is not None:
            say(f"going on from step {found.name.partition('-')[2]}")
        if options.checkpointing:
            _compute_twice(model.module)
        trainer = _trainer(model, training, validation, recipe, arguments, options, say)
        try:
            trainer.train(resume_from_checkpoint=None if found is None else str(found))
        except OSError as error:
            raise _unwritten(error, options.folder) from error
        except Exception as error:
            # torch and safetensors put a full disk into words of their own.
            if "No space left" in str(error) or "write" in type(error).__name__.lower():
                raise _unwritten(error, options.folder) from error
            raise
        history = epochs_of(trainer.state.log_history)
    model.load_state_dict(load_file(options.folder / BEST), strict=False)
    return history


def _compute_twice(module: DetectorModule) -> None:
    """Lets each layer compute its activations again in the backward pass."""
    model: Any = module.encoder.model
    # transformers 5 calls it so from some version on.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    # The other form asks for inputs with gradients, and a frozen patch embedding has none.
    enable({"use_reentrant": False})


def _unwritten(error: Exception, folder: Path) -> TrainingError:
    for partial in folder.glob("checkpoint-*"):
        if not (partial / COMPLETE).exists():
            shutil.rmtree(partial, ignore_errors=True)
    kept = last_checkpoint(folder)
    last = "no checkpoint is whole" if kept is None else f"{kept} is the last whole checkpoint"
    return TrainingError(
        f"a checkpoint cannot be written to {folder}: {error}; {last}: make room, and the same "
        "command with --resume goes on"
    )


def _read_log(checkpoint: Path) -> list[dict[str, Any]]:
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return list(state.log_history)


def _arguments(recipe: Recipe, seed: int, options: LoopOptions) -> TrainingArguments:
    if options.tensorboard is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(options.tensorboard)
    on_cpu = worker_device(gpu_id=0).type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(options.folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=options.accumulate,
        num_train_epochs=recipe.epochs,
        max_grad_norm=recipe.largest_gradient,
        seed=seed,
        data_seed=seed,
        use_cpu=on_cpu,
        bf16=options.bfloat16,
        dataloader_num_workers=options.workers,
        dataloader_persistent_workers=options.workers > 0,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to=[] if options.tensorboard is None else ["tensorboard"],
        # What the guide does: an epoch is judged before it is saved.
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        # The one before stays until the newest is whole.
        save_total_limit=2,
    )
    parts = arguments.world_size * options.accumulate
    share, rest = divmod(recipe.batch_size, parts)
    if rest or share % 2:
        raise TrainingError(
            f"a batch of {recipe.batch_size} does not divide into {parts} even parts, half real "
            "and half fake (processes times --accumulate); choose another --batch-size"
        )
    arguments.per_device_train_batch_size = share
    arguments.per_device_eval_batch_size = max(share, 8)
    return arguments


def _trainer(
    model: TrainedModule,
    training: ImageSet,
    validation: ImageSet,
    recipe: Recipe,
    arguments: TrainingArguments,
    options: LoopOptions,
    say: Callable[[str], None],
) -> Trainer:
    pairs = BalancedPairs(training.images, recipe.batch_size, arguments.seed)
    if not len(pairs):
        raise TrainingError(
            f"{len(training.images)} images to train on do not fill a batch of "
            f"{recipe.batch_size}, half of each class: give more, or a smaller --batch-size"
        )
    optimizer = make_optimizer(model.module, recipe)
    schedule = make_schedule(optimizer, recipe, len(pairs) // recipe.batch_size * recipe.epochs)
    trainer = _Loop(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=training,
        eval_dataset=validation,
        compute_metrics=_judge,
        callbacks=[_Guide(model, recipe, options, say)],
        optimizers=(optimizer, schedule),
    )
    trainer.pairs = pairs
    trainer.remove_callback(PrinterCallback)
    return trainer


def make_optimizer(module: DetectorModule, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's, over what is trained; fused, which a CPU computes in one pass as well."""
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    groups = parameter_groups(module, recipe)
    return kind(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LambdaLR:
    """The recipe's rate of learning over so many steps."""
    warmup = round(recipe.warmup * steps)
    if recipe.schedule == "constant":
        schedule: LambdaLR = get_constant_schedule_with_warmup(optimizer, warmup)
        return schedule
    lowest = min(recipe.lowest_rate / recipe.learning_rate, 1.0)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, warmup, steps, min_lr_rate=lowest
    )
    return schedule


def _judge(found: EvalPrediction) -> dict[str, float]:
    logits = np.asarray(found.predictions, np.float64)
    return {"auc": float(roc_auc_score(np.asarray(found.label_ids), logits[:, 1] - logits[:, 0]))}


def margins_of(module: DetectorModule, images: ImageSet, workers: int) -> Margins:
    """Logit of FAKE less that of REAL for each image, (images,), as they are, not augmented.

    Args:
        module: of plain weights, with a head of two outputs.
        images: to judge.
        workers: processes that prepare them.
    """
    device = next(module.parameters()).device
    loader = DataLoader(images, 16, collate_fn=collate, num_workers=workers)
    with torch.inference_mode():
        logits = [module(batch["pixels"].to(device)).double().cpu() for batch in loader]
    found = torch.cat(logits)
    return (found[:, 1] - found[:, 0]).numpy()
