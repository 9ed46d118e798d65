"""What a run changes of its model, where it is not everything at one rate."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import numpy as np

from vit_jax import errors
from vit_jax.learning import lora as lora_lib
from vit_jax.learning import passes, rates
from vit_jax.types import Batch, Metrics, Params, TrainState

# As `step.make_train_step` returns it.
Step = Callable[..., tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class Tuning:
    """Which parameters are trained, and how fast.

    Attributes:
        rates: The factors of the learning rate.
        lora: How weights are changed by what is trained beside them; None: they are
            trained themselves.
        model: The shapes of the model's own parameters.
    """

    rates: rates.Rates
    lora: lora_lib.Lora | None
    model: Params

    @classmethod
    def of(
        cls,
        params: Params,
        optimizer: Mapping[str, Any],
        lora: Mapping[str, Any],
    ) -> Self:
        """Returns that of a run.

        Args:
            params: Of the model, or their shapes.
            optimizer: With "layer_decay", "freeze" and "lr_rules", as `rates.make`
                takes them.
            lora: As `lora.Lora` takes it; of rank 0: none. With it the weights are
                frozen but for the head, unless `freeze` says what is.

        Raises:
            UserError: what this model does not have.
        """
        added, shapes, freeze = None, params, optimizer["freeze"]
        if lora["rank"]:
            added = lora_lib.Lora(lora["rank"], lora["alpha"], tuple(lora["targets"]))
            shapes = params | jax.eval_shape(added.new, params, jax.random.key(0))
            freeze = freeze or "all-lora-head"
        factors = rates.make(
            shapes,
            layer_decay=optimizer["layer_decay"],
            freeze=freeze,
            lr_rules=optimizer["lr_rules"],
        )
        return cls(factors, added, params)

    def added(self, key: jax.Array) -> Params:
        """Returns what the run has beside the model's parameters, at its start."""
        if self.lora is None:
            return {}
        return self.lora.new(self.model, jax.random.fold_in(key, 1))

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns what is trained, in groups of one rate, as texts."""
        return rates.rows(self.rates.groups())

    def table(self) -> str:
        """Returns what is trained, in groups of one rate, in lines."""
        return rates.table(self.rates.groups())

    def check_new(self, names: Sequence[str]) -> None:
        """Raises `UserError` for parameters that would be neither given nor trained.

        Args:
            names: Of those that the run has made new.
        """
        if lost := [name for name in names if not np.any(self.rates.of(name))]:
            raise errors.UserError(
                f"{', '.join(lost)}: not in the checkpoint, and frozen as drawn; train "
                "them, as in optimizer.freeze=all-lora-head, or leave them out, as in "
                "model.pre_logits=False"
            )

    def bind(self, bound: passes.Bound) -> passes.Bound:
        """Returns how the model is called: no gradient of what is not trained."""

        def enter(params: Params) -> Params:
            params = self.rates.halted(params)
            if self.lora is not None:
                params = self.lora.merged(params)
            return bound.enter(params)

        frozen = self.rates.frozen_blocks
        placement = dataclasses.replace(bound.placement, frozen=frozen)
        return dataclasses.replace(bound, enter=enter, placement=placement)

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
