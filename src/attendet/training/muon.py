"""Muon for the weights of convolutions, AdamW for all other parameters, as one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a
matrix by the nearest matrix with orthonormal rows or columns, so that no direction of the weights
learns faster than another. The steps are scaled so that they are as large as those of AdamW at the
same learning rate (Liu et al. 2025, arXiv:2502.16982, equation 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from attendet.system import has_bfloat16

STEPS = 5
"""Newton-Schulz iterations."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration's polynomial (Jordan), for fast growth of small singular values."""

ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW step at learning rate 1 (Liu, section 2.2)."""


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return matrices with the same singular vectors and singular values near 1 (0.7 to 1.2).

    Args:
        matrices: shape (N, rows, columns), float32.
        dtype: dtype of the matrix products.

    Example:
        >>> values = torch.linalg.svdvals(orthogonalize(torch.randn(2, 8, 32)))
        >>> bool((values > 0.5).all() and (values < 1.3).all())
        True
    """
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    found: Tensor = x.mT if tall else x
    return found.to(matrices.dtype)


def _fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device multiplies it in hardware, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and has_bfloat16()
    return torch.bfloat16 if fast else torch.float32


class Muon(torch.optim.Optimizer):
    """Optimizer that applies Muon to some weights and AdamW to the other parameters.

    Args:
        weights: 4-dimensional weights for Muon; each is treated as a matrix of output channels by
            all other dimensions.
        others: parameter groups for AdamW, with their ``weight_decay``.
        lr: learning rate of Muon.
        others_lr: learning rate of AdamW.
        weight_decay: weight decay of Muon.
        momentum: Nesterov momentum of Muon.
        fused: use one kernel for the AdamW step of all parameters.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        others: list[dict[str, Any]],
        *,
        lr: float,
        others_lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        fused: bool | None = None,
    ) -> None:
        adamw = torch.optim.AdamW(others, lr=others_lr, betas=(0.9, 0.999), fused=fused)
        chosen = list(weights)
        group = {"params": chosen, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([group], {"lr": lr})
        self._adamw = adamw
        self._dtype = _fastest_dtype(chosen[0].device)
        for each in adamw.param_groups:
            self.add_param_group(each)
        self._join()

    def _join(self) -> None:
        """Set the parameter groups and the state of AdamW to those of this optimizer."""
        self._adamw.param_groups = self.param_groups[1:]
        self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._join()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure")
        group = self.param_groups[0]
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                by_shape.setdefault(weight.shape, []).append(weight)
        for shape, weights in by_shape.items():
            self._step_weights(weights, shape, group)
        self._adamw.step()

    def _step_weights(
        self, weights: list[Tensor], shape: torch.Size, group: dict[str, Any]
    ) -> None:
        """Update weights of one shape together, because most time goes into launching operators."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        averages = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, averages, group["momentum"])
        matrices = torch.stack([each.flatten(1) for each in ahead])
        changes = [each.view(shape) for each in orthogonalize(matrices, self._dtype)]
        size = ADAMW_RMS * max(matrices.shape[1:]) ** 0.5
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, changes, alpha=-group["lr"] * size)
