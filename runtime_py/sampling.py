"""The choice of the next token from the decoder's logits: greedy as in the release, or nucleus sampling."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from export.errors import BundleError, PromptError


class Sampler:
    """Called with float logits [V], returns a token id.

    temperature: 0 takes the best token, the lowest id of equals; above 0, one is drawn from softmax(logits / temperature).
    top_p: draw only among the most probable tokens, the fewest whose probabilities sum to at least this (the best is always one).
    seed: makes the draws repeatable; each sampler has its own generator and leaves torch's alone.
    Raises PromptError for options out of range, BundleError for logits that are not finite.
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None):
        if not (math.isfinite(temperature) and temperature >= 0):
            raise PromptError(f"the temperature is {temperature}: give a number from 0 (always the best token) up, 0.7 for example")
        if not 0 < top_p <= 1:
            raise PromptError(f"top-p is {top_p}: give a number above 0 and up to 1 (1 keeps all tokens)")
        self.temperature = temperature
        self.top_p = top_p
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        elif not 0 <= seed < 2**63:
            raise PromptError(f"the seed is {seed}: give a whole number from 0 to 2^63 - 1")
        else:
            self._generator.manual_seed(seed)

    def __call__(self, logits: Tensor) -> int:
        logits = logits.detach().float().cpu()
        # NumPy has no threads: PyTorch's would spin for a while after each reduction and take a core from the next step's graph.
        values = logits.numpy()
        if not np.isfinite(values).all():
            raise BundleError("the decoder gave logits that are not finite: build the bundle again, with fp32 or another recipe")
        if self.temperature == 0:
            return int(values.argmax())  # the first of equals
        return int(torch.multinomial(self.probabilities(logits), 1, generator=self._generator))

    def probabilities(self, logits: Tensor) -> Tensor:
        """What a token is drawn with, above temperature 0: float32 [V] -> [V], up to a factor."""
        # From the best logit down and in float64: a tiny temperature must neither overflow the quotient nor round to 0 itself.
        scaled = (logits - logits.max()).double() / self.temperature
        probabilities = torch.softmax(scaled.float(), dim=-1)
        return self._nucleus(probabilities) if self.top_p < 1 else probabilities

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        """Zero out the tail: [V] -> [V], the kept ones as they were (`multinomial` needs no sum of 1)."""
        ranked, order = torch.sort(probabilities, descending=True, stable=True)
        mass_before = torch.cumsum(ranked.double(), dim=-1) - ranked.double()
        kept = mass_before < self.top_p  # True for the first: nothing stands before it
        return torch.zeros_like(probabilities).scatter(0, order[kept], ranked[kept])
