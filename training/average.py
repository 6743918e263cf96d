"""Exponential moving average of a network's weights, sharded as the network is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Tensor) -> Tensor:
    """A weight on the CPU, gathered from all processes if it is sharded (then all must call)."""
    gathered = value.full_tensor() if isinstance(value, DTensor) else value
    return gathered.detach().cpu()


class Average:
    """float32 averages of all weights and buffers, by name; the averaged weights are what ships."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: value.detach().clone().float() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the model's weights in; early steps weigh more, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.model.state_dict().items():
            self.weights[name].lerp_(value.float(), 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Whole weights on the CPU; every process must call."""
        return {name: whole(value) for name, value in self.weights.items()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take over what ``state_dict`` gave."""
        for name, value in self.weights.items():
            if isinstance(value, DTensor):
                placed = distribute_tensor(saved[name].to(value.device), value.device_mesh, value.placements)
                self.weights[name] = placed
            else:
                self.weights[name] = saved[name].to(value.device).clone()
