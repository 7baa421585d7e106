"""Muon for matrices, Adam for the rest; both keep their state in plain tensors that can be saved.

Muon: momentum, made nearly orthogonal by five Newton-Schulz steps (Jordan 2024), scaled to the size
of an Adam update (Liu et al. 2025).
"""

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAM_BETAS = (0.9, 0.98)
ADAM_EPSILON = 1e-8


def orthogonalize(x):
    """x [count, rows, columns]: each with its singular values brought near 1; bf16 inside."""
    is_tall = x.shape[1] > x.shape[2]
    y = x.to(torch.bfloat16)
    y = y.transpose(1, 2).contiguous() if is_tall else y
    y = y / (y.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = torch.bmm(y, y.transpose(1, 2))
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a, alpha=1)
    return y.transpose(1, 2) if is_tall else y


class Optimizer:
    """Updates masters in place. shape_of: how Muon sees one, (count, rows, columns), or None."""

    def __init__(self, masters, shape_of):
        self.masters, self.steps = masters, 0
        self.muon = {name: shape for name in masters if (shape := shape_of(name))}
        self.first = {name: torch.zeros_like(m) for name, m in masters.items()}
        self.second = {
            name: torch.zeros_like(m) for name, m in masters.items() if name not in self.muon
        }

    def step(self, gradients, muon_rate, adam_rate, scale):
        """gradients: name -> f32, each multiplied by `scale` (clipping)."""
        self.steps += 1
        adam = [name for name in gradients if name not in self.muon]
        counts = [torch.tensor(float(self.steps)) for _ in adam]
        torch._foreach_mul_([gradients[n] for n in adam], scale)
        torch._fused_adam_(
            [self.masters[n] for n in adam],
            [gradients[n] for n in adam],
            [self.first[n] for n in adam],
            [self.second[n] for n in adam],
            [],
            counts,
            lr=adam_rate,
            beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1],
            weight_decay=0.0,
            eps=ADAM_EPSILON,
            amsgrad=False,
            maximize=False,
        )
        for name, shape in self.muon.items():
            if name not in gradients:
                continue
            momentum = (
                self.first[name]
                .mul_(MOMENTUM)
                .add_(gradients[name], alpha=(1 - MOMENTUM) * float(scale))
            )
            look = torch.add(
                momentum * MOMENTUM, gradients[name], alpha=(1 - MOMENTUM) * float(scale)
            )
            update = orthogonalize(look.view(shape)).reshape(momentum.shape).float()
            self.masters[name].add_(update, alpha=-muon_rate * 0.2 * max(shape[1:]) ** 0.5)

    def state(self):
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def restore(self, state):
        self.steps = state["steps"]
        for mine, theirs in ((self.first, state["first"]), (self.second, state["second"])):
            for name in mine:
                mine[name].copy_(theirs[name])
