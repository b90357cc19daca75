"""Muon for the weights of convolutions, AdamW for all other parameters, as one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a
matrix by the nearest matrix with orthonormal rows or columns, so that no direction of the weights
learns faster than another. With equal learning rates its step is as large as one of AdamW (Liu et
al. 2025, arXiv:2502.16982, equation 4).
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
"""Of the polynomial of an iteration; by Jordan, for fast growth of small singular values."""

ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW step at learning rate 1; by Liu, section 2.2."""


def orthogonalize(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a matrix with the same singular vectors and singular values near 1 (0.7 to 1.2).

    Args:
        matrix: shape (rows, columns), float32.
        dtype: that the products are computed in.

    Example:
        >>> values = torch.linalg.svdvals(orthogonalize(torch.randn(8, 32)))
        >>> bool((values > 0.5).all() and (values < 1.3).all())
        True
    """
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x.T if tall else x
    return found.to(matrix.dtype)


def _fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device multiplies it in hardware, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and has_bfloat16()
    return torch.bfloat16 if fast else torch.float32


class Muon(torch.optim.Optimizer):
    """Muon for some weights and AdamW for the other parameters.

    Args:
        weights: 4 dimensions; each is taken as the matrix of its output channels by all else.
        others: groups for AdamW, with their ``weight_decay``.
        lr: learning rate of the weights.
        others_lr: learning rate of the others.
        weight_decay: of the weights.
        momentum: of the weights, by Nesterov.
        fused: one kernel for the AdamW step of all parameters.
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
        """Let AdamW work on the groups and the state of this optimizer."""
        self._adamw.param_groups = self.param_groups[1:]
        self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        super().load_state_dict(state_dict)
        self._join()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change all parameters that have a gradient."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure")
        group = self.param_groups[0]
        for weight in group["params"]:
            if weight.grad is not None:
                self._step_weight(weight, weight.grad, group)
        self._adamw.step()

    def _step_weight(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        matrix = gradient.lerp(average, group["momentum"]).flatten(1)
        change = orthogonalize(matrix, self._dtype).view(weight.shape)
        size = ADAMW_RMS * max(matrix.shape) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(change, alpha=-group["lr"] * size)
