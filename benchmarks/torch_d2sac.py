"""A plain D2SAC in PyTorch, from the equations in docs/model.md: what ours is compared with.

It is written as such code is commonly written: a module for each network, a loop over the K
denoising steps, one optimiser each for actor, critics and temperature, a loop over the
parameters for the moving average. It computes what `jaxmec.agents.DSAC.published` does; the
tests hold the two to the same numbers.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ACTIVATIONS = {"mish": nn.Mish, "tanh": nn.Tanh, "relu": nn.ReLU}
EMBEDDING = 16  # of the step number, even


def perceptron(inputs: int, hidden: tuple[int, ...], outputs: int, activation: str) -> nn.Module:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class DiffusionActor(nn.Module):
    """Logits x_0 of a reverse chain of K steps from noise; x̂_0 is not clipped."""

    def __init__(
        self, states: int, actions: int, hidden: tuple[int, ...], steps: int, activation: str
    ) -> None:
        super().__init__()
        self.steps, self.actions = steps, actions
        self.network = perceptron(actions + EMBEDDING + states, hidden, actions, activation)
        k = np.arange(1, steps + 1)
        alpha = np.exp(-0.1 / steps - 9.9 * (2 * k - 1) / (2 * steps**2))
        bar = np.cumprod(alpha)
        before = np.append(1.0, bar[:-1])
        beta = 1 - alpha
        constants = {
            "root": np.sqrt(1 / bar),
            "share": np.sqrt(1 / bar - 1),
            "of_x0": beta * np.sqrt(before) / (1 - bar),
            "of_x": (1 - before) * np.sqrt(alpha) / (1 - bar),
            "sigma": np.sqrt(beta * (1 - before) / (1 - bar)),
        }
        for name, value in constants.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        frequency = np.geomspace(1.0, 1e-4, EMBEDDING // 2)
        angle = k[:, None] * frequency
        embedding = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
        self.register_buffer("embedding", torch.tensor(embedding, dtype=torch.float32))

    def forward(self, state: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[M, A] from states [M, S] and standard normal noise [K, M, A], x_K first."""
        x = noise[0]
        for i in reversed(range(self.steps)):
            step = self.embedding[i].expand(len(state), -1)
            epsilon = self.network(torch.cat([x, step, state], dim=1))
            x0 = self.root[i] * x - self.share[i] * epsilon
            x = self.of_x0[i] * x0 + self.of_x[i] * x
            if i:
                x = x + self.sigma[i] * noise[self.steps - i]
        return x


class D2SAC:
    """The learner: actor, twin critics, their targets, the temperature, and their optimisers.

    Args:
        states, actions: lengths of an observation and of the logits.
        hidden, steps, activation: of the noise network; the critics have the same widths.
        fused: PyTorch's fused Adam, which is not its default on a CPU.
    """

    def __init__(
        self,
        states: int,
        actions: int,
        hidden: tuple[int, ...],
        steps: int,
        activation: str,
        discount: float = 0.99,
        fused: bool = False,
    ) -> None:
        self.actor = DiffusionActor(states, actions, hidden, steps, activation)
        self.critics = nn.ModuleList(
            perceptron(states, hidden, actions, activation) for _ in range(2)
        )
        self.targets = copy.deepcopy(self.critics)
        self.log_temperature = torch.tensor(math.log(0.05), requires_grad=True)
        self.discount, self.tau, self.target_entropy = discount, 0.005, -1.0
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), 1e-4, fused=fused)
        self.critic_optimiser = torch.optim.Adam(self.critics.parameters(), 1e-3, fused=fused)
        self.temperature_optimiser = torch.optim.Adam([self.log_temperature], 3e-4, fused=fused)

    def noise(self, batch: int) -> torch.Tensor:
        """[K, batch, A] of one chain for each of a batch."""
        return torch.randn(self.actor.steps, batch, self.actor.actions)

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> int:
        """One action drawn from the policy at one observation [S]."""
        logits = self.actor(torch.from_numpy(observation)[None], self.noise(1))
        return int(torch.multinomial(torch.softmax(logits, dim=1)[0], 1))

    def update(
        self,
        observation: torch.Tensor,
        action: torch.Tensor,
        reward: torch.Tensor,
        next_observation: torch.Tensor,
        terminated: torch.Tensor,
        noise: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> dict[str, float]:
        """One step of critics, actor and temperature on a minibatch that leads with [M].

        ``noise`` is that of the next and of the present states' chains; drawn where not given.
        """
        batch = len(observation)
        noise_next, noise_now = noise or (self.noise(batch), self.noise(batch))
        temperature = self.log_temperature.exp().detach()
        with torch.no_grad():
            log_next = functional.log_softmax(self.actor(next_observation, noise_next), dim=1)
            smaller = torch.minimum(*(target(next_observation) for target in self.targets))
            value = (log_next.exp() * (smaller - temperature * log_next)).sum(1)
            wanted = reward + self.discount * (~terminated) * value
        values = [critic(observation) for critic in self.critics]
        chosen = [q.gather(1, action[:, None])[:, 0] for q in values]
        critic_loss = sum(0.5 * functional.mse_loss(q, wanted) for q in chosen)
        self.critic_optimiser.zero_grad()
        critic_loss.backward()

        log_policy = functional.log_softmax(self.actor(observation, noise_now), dim=1)
        smaller = torch.minimum(*(q.detach() for q in values))
        policy = log_policy.exp()
        actor_loss = (policy * (temperature * log_policy - smaller)).sum(1).mean()
        self.actor_optimiser.zero_grad()
        actor_loss.backward()

        entropy = -(policy * log_policy).sum(1).mean().detach()
        temperature_loss = self.log_temperature * (entropy - self.target_entropy)
        self.temperature_optimiser.zero_grad()
        temperature_loss.backward()

        self.critic_optimiser.step()
        self.actor_optimiser.step()
        self.temperature_optimiser.step()
        with torch.no_grad():
            for target, online in zip(
                self.targets.parameters(), self.critics.parameters(), strict=True
            ):
                target.mul_(1 - self.tau).add_(online, alpha=self.tau)
        return {
            "critic_loss": float(critic_loss.detach()),
            "actor_loss": float(actor_loss.detach()),
            "entropy": float(entropy),
        }
