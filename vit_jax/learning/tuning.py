"""What a run changes of its model, where it is not everything at one rate."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from vit_jax import tree
from vit_jax.learning import passes, rates
from vit_jax.types import Batch, Metrics, Params, TrainState

# As `step.make_train_step` returns it.
Step = Callable[..., tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class Tuning:
    """Which parameters are trained, and how fast.

    Attributes:
        rates: The factors of the learning rate.
    """

    rates: rates.Rates

    @classmethod
    def of(
        cls,
        params: Params,
        *,
        layer_decay: float,
        freeze: str,
        lr_rules: tree.Rules[float],
    ) -> Self:
        """Returns that of a run.

        Args:
            params: Of the model, or their shapes.
            layer_decay: As `rates.make` takes it, like the next two.
            freeze: See there.
            lr_rules: See there.

        Raises:
            UserError: what this model does not have.
        """
        factors = rates.make(
            params, layer_decay=layer_decay, freeze=freeze, lr_rules=lr_rules
        )
        return cls(factors)

    def bind(self, bound: passes.Bound) -> passes.Bound:
        """Returns how a step calls the model: no gradient of what is not trained."""
        enter: Callable[[Params], Params] = bound.enter
        frozen = self.rates.frozen_blocks
        return dataclasses.replace(
            bound,
            enter=lambda params: enter(self.rates.halted(params)),
            placement=dataclasses.replace(bound.placement, frozen=frozen),
        )

    def keeping(self, train_step: Step) -> Step:
        """Returns the step with averages of frozen parameters that are not rounded."""

        def step(
            state: TrainState, batch: Batch, *frozen: Params
        ) -> tuple[TrainState, Metrics]:
            new, metrics = train_step(state, batch, *frozen)
            if new.ema is None or state.ema is None:
                return new, metrics
            ema = self.rates.kept(new.ema, state.ema)
            return dataclasses.replace(new, ema=ema), metrics

        return step
