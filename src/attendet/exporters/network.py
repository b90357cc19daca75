"""A network as it is exported: images as they lie in memory go in, boxes and scores come out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.exporters.forms import first_convolutions, inference_form
from attendet.models.detector import DetectionNetwork

__all__ = ["ImageNetwork", "PlanarNetwork"]


class ImageNetwork(nn.Module):
    """Normalization, network and decode in one module, on the CPU, ready to be traced.

    Args:
        network: a network of `attendet.models`; it is copied.
        fold_scale: put the division of pixels by 255 into the first convolutions' weights, where
            those alone take the image. Not for weights that are kept in float16, which lose
            digits when they are that small.
        channels_last: keep maps in the order in which pixels lie, which PyTorch runs faster.
        clip: cut boxes at the network input's edges.

    Example:
        >>> from attendet.models import build
        >>> network = build(classes=["cat", "dog"], width_mult=0.125).eval()
        >>> boxes_xyxy, scores = ImageNetwork(network)(torch.zeros(1, 64, 96, 3).byte())
        >>> tuple(boxes_xyxy.shape), tuple(scores.shape)
        ((1, 90, 4), (1, 90, 2))
    """

    def __init__(
        self,
        network: DetectionNetwork,
        *,
        fold_scale: bool = True,
        channels_last: bool = False,
        clip: bool = False,
    ) -> None:
        super().__init__()
        self.network = inference_form(network).float()
        takers = first_convolutions(self.network) if fold_scale else ()
        for convolution in takers:
            convolution.weight.div_(255)
        self.divide = not takers
        self.channels_last = channels_last
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.clip = clip
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, B, 4), network input pixels, and scores (N, B, K), 0 to 1.

        Args:
            images: uint8, shape (N, H, W, 3), H and W multiples of 32.
        """
        laid = images.permute(0, 3, 1, 2)
        if not self.channels_last:
            laid = laid.contiguous()
        return self.detect(laid.float())

    def detect(self, laid: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores of images as planes: float (N, 3, H, W), 0 to 255."""
        if self.divide:
            laid = laid / 255
        boxes_xyxy, scores = self.network.decode(self.network(laid))
        if self.clip:
            height, width = laid.shape[2], laid.shape[3]
            left, top, right, bottom = boxes_xyxy.unbind(-1)
            xs = [edge.clamp(0, width) for edge in (left, right)]
            ys = [edge.clamp(0, height) for edge in (top, bottom)]
            boxes_xyxy = torch.stack([xs[0], ys[0], xs[1], ys[1]], dim=-1)
        return boxes_xyxy, scores


class PlanarNetwork(ImageNetwork):
    """The same for libraries that turn images into planes themselves."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, B, 4), network input pixels, and scores (N, B, K), 0 to 1.

        Args:
            images: float, shape (N, 3, H, W), 0 to 255, H and W multiples of 32.
        """
        return self.detect(images)
