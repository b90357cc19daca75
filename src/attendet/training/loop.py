"""The training loop, visible: for each epoch, for each batch, forward, loss, backward, step.

N is the batch, H and W the network input.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attendet.data import AugmentConfig, Augmenter, Batch
from attendet.errors import TrainingError
from attendet.losses import DetectionLoss, LossSettings
from attendet.training.batches import epoch_order, prefetched
from attendet.training.convolution import mix_layouts
from attendet.training.distributed import share_batch_norm
from attendet.training.ema import WeightAverage
from attendet.training.events import Reporter
from attendet.training.optim import make_optimizer
from attendet.training.plan import Plan
from attendet.training.recipe import Recipe
from attendet.training.schedule import input_hw_at, lr_share, mosaic_at

__all__ = ["Trainer"]


@dataclass
class _Clock:
    """Seconds of one epoch."""

    begun: float = field(default_factory=time.perf_counter)
    stepping: float = 0.0

    def record(self, images: int) -> dict[str, Any]:
        total = time.perf_counter() - self.begun
        return {
            "seconds": round(total, 3),
            "images_per_second": round(images / total, 3),
            "outside_step_share": round(1 - self.stepping / total, 4),
        }


class Trainer:
    """Trains one network; `run_epoch` is the loop.

    Args:
        fabric: launched Lightning Fabric.
        plan: the run.
        reporter: is told of each step.
    """

    def __init__(self, fabric: Any, plan: Plan, reporter: Reporter) -> None:
        recipe = plan.recipe
        self.fabric, self.plan, self.recipe, self.reporter = fabric, plan, recipe, reporter
        self.network = plan.network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.network, decay=recipe.ema_decay)
        if fabric.world_size > 1:
            share_batch_norm(self.network)
        if fabric.device.type == "cpu" and fabric.strategy.precision.precision == "32-true":
            mix_layouts(self.network)
        optimizer = make_optimizer(self.network, recipe)
        self.model, self.optimizer = fabric.setup(self.network, optimizer)
        self.criterion = DetectionLoss(
            self.network.level_anchors,
            self.network.strides,
            self.network.scale_x_y,
            _loss_settings(recipe),
        )
        self.augmenter = Augmenter(
            plan.cache, _augment_settings(recipe), device=fabric.device, seed=plan.seed
        )
        self.bgr = plan.metadata.preprocessing().color == "bgr"
        self.accumulate = max(1, math.ceil(recipe.effective_batch / recipe.batch))

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch (counting from 0) and return its record.

        Raises:
            TrainingError: if the loss or the weights are not finite.
        """
        recipe, plan = self.recipe, self.plan
        order = epoch_order(len(plan.cache), recipe.batch, seed=plan.seed, epoch=epoch)
        self._set_mode(epoch)
        clock = _Clock()
        sums: dict[str, float] = {}
        for step, batch in enumerate(prefetched(self._batch_maker(epoch, order), len(order))):
            begun = time.perf_counter()
            share = lr_share(epoch + (step + 1) / len(order), recipe=recipe)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.lr * share
            last = (step + 1) % self.accumulate == 0 or step + 1 == len(order)
            terms = self._forward_backward(
                batch, epoch=epoch, step=step, last=last, together=self._together(step, len(order))
            )
            if last:
                self._step(epoch)
            clock.stepping += time.perf_counter() - begun
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            self.reporter.stepped(epoch, step, len(order), terms)
        self._check_weights(epoch)
        losses = {name: round(total / len(order), 6) for name, total in sums.items()}
        return {
            "epoch": epoch + 1,
            "losses": losses,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **clock.record(len(order) * recipe.batch),
        }

    def _together(self, step: int, steps: int) -> int:
        """Return how many batches one step of the optimizer takes; fewer at an epoch's end."""
        return min(self.accumulate, steps - step // self.accumulate * self.accumulate)

    def _batch_maker(self, epoch: int, order: list[list[int]]) -> Any:
        shard = self.recipe.batch // self.fabric.world_size
        rows = slice(self.fabric.global_rank * shard, (self.fabric.global_rank + 1) * shard)

        def make(step: int) -> Batch:
            return self.augmenter.batch(
                order[step],
                epoch=epoch,
                step=step,
                input_hw=input_hw_at(
                    epoch,
                    step,
                    input_hw=self.plan.input_hw,
                    recipe=self.recipe,
                    seed=self.plan.seed,
                ),
                mosaic_on=mosaic_at(epoch, recipe=self.recipe),
                rows=rows,
            )

        return make

    def _forward_backward(
        self, batch: Batch, *, epoch: int, step: int, last: bool, together: int
    ) -> dict[str, float]:
        with self.fabric.no_backward_sync(self.model, enabled=not last):
            images = batch.images.flip(1) if self.bgr else batch.images
            raw_maps = self.model(images)
            terms = self.criterion(raw_maps, batch[1:], average_matches=self._average())
            loss = torch.stack(list(terms.values())).sum()
            values = self._values(terms)
            if not all(math.isfinite(value) for value in values.values()):
                raise TrainingError(
                    f"loss must be finite; got {values} (epoch {epoch + 1}, step {step + 1}). "
                    "The last good weights are kept. Try a lower --lr, or --precision 32."
                )
            self.fabric.backward(loss / together)
        return values

    def _values(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Return the terms of the whole batch: all processes see, and stop at, the same numbers."""
        values = torch.stack([term.detach() for term in terms.values()])
        if self.fabric.world_size > 1:
            values = self.fabric.all_reduce(values, reduce_op="mean")
        return dict(zip(terms, values.tolist(), strict=True))

    def _check_weights(self, epoch: int) -> None:
        """Raise where the last step broke the weights: no later loss of the epoch tells of it."""
        if all(bool(tensor.isfinite().all()) for tensor in self.network.state_dict().values()):
            return
        raise TrainingError(
            f"weights must be finite; they are not (end of epoch {epoch + 1}). "
            "The last good weights are kept. Try a lower --lr, or --precision 32."
        )

    def _average(self) -> Any:
        if self.fabric.world_size == 1:
            return None

        def average(count: Tensor) -> Tensor:
            mean: Tensor = self.fabric.all_reduce(count, reduce_op="mean")
            return mean

        return average

    def _step(self, epoch: int) -> None:
        backbone = getattr(self.network, "backbone", None)
        if backbone is not None and epoch < self.recipe.freeze_backbone_epochs:
            for parameter in backbone.parameters():
                parameter.grad = None
        if self.recipe.clip_norm > 0:
            self.fabric.clip_gradients(
                self.model,
                self.optimizer,
                max_norm=self.recipe.clip_norm,
                error_if_nonfinite=False,
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.network)

    def _set_mode(self, epoch: int) -> None:
        self.model.train()
        frozen = epoch < self.recipe.freeze_backbone_epochs
        backbone: nn.Module | None = getattr(self.network, "backbone", None)
        if backbone is None:
            return
        if frozen:
            backbone.eval()
        if self.fabric.world_size == 1:
            backbone.requires_grad_(not frozen)

    def state(self) -> dict[str, Any]:
        """Return what the next epoch needs, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.average.steps = state["average_steps"]
        self.optimizer.load_state_dict(state["optimizer"])


def _loss_settings(recipe: Recipe) -> LossSettings:
    return LossSettings(
        assignment=recipe.assignment,
        box_weight=recipe.box_weight,
        objectness_weight=recipe.objectness_weight,
        class_weight=recipe.class_weight,
        ignore_iou=recipe.ignore_iou,
        label_smoothing=recipe.label_smoothing,
    )


def _augment_settings(recipe: Recipe) -> AugmentConfig:
    return AugmentConfig(
        mosaic=recipe.mosaic,
        mixup=recipe.mixup,
        scale=recipe.scale,
        translate=recipe.translate,
        degrees=recipe.degrees,
        shear=recipe.shear,
        flip_lr=recipe.flip_lr,
        flip_ud=recipe.flip_ud,
        rotate90=recipe.rotate90,
        hue=recipe.hue,
        saturation=recipe.saturation,
        value=recipe.value,
    )
