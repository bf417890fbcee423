"""snnTorch's step, and whole sequences of it on the engine."""

from __future__ import annotations

import snntorch
import torch
from torch import Tensor

from ... import discretisation
from ...diagnostics import keep_record
from ...ops.grid import transformed
from ..adapter import handed_on
from ..fusion.chain_recorder import recorder, whole
from ..fusion.chains import ChainRun, remark
from ..linear_current import LinearDrive
from ..sequence import Before, Dynamics, count_slopes, run_sequence
from ..step import Reset, emit, inverse_slopes
from ..step_memory import earlier_spikes
from .reset_by_hand import LastStep
from .states import StatefulNeuron


class SnnTorchNeuron(StatefulNeuron):
    """snnTorch's step and whole sequences of it, with the gradient of ``hosts.step``."""

    _of_last_call = ("_last", "_last_step")
    _last_step: LastStep | None = None  # without reset
    _by_hand = False  # whether its caller has written out a reset

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """(s, c, m) of ``discretisation``."""
        beta = self.beta.clamp(0, 1)
        alpha = self.alpha.clamp(0, 1) if "syn" in self._states else torch.zeros_like(beta)
        return discretisation.snntorch(alpha, beta)

    def _leak(self) -> Tensor:
        """m, the factor of the membrane in a step."""
        return self.beta.clamp(0, 1)

    def _driven(self, input_: Tensor) -> Tensor:
        """c times the input current, in the host's order of operations."""
        return input_

    def _call(self, input_: Tensor, **given: Tensor | None):
        if self.multi_step:
            return whole(lambda current, states: self.sequence(current, **states), input_, given)
        self._start(given, input_)
        running = recorder()
        if running is None:
            return self._returned(self._advance(input_))
        like = running.like(input_.shape, input_.dtype)
        likes = dict.fromkeys(("spk", *self._states), like)
        after = running.step(self, input_, self._kept(), likes)
        self._keep({name: after[name] for name in self._states})
        return self._returned(after["spk"])

    def _run_chain(
        self, input_: Tensor | LinearDrive, before: dict[str, Tensor], wanted: set[str]
    ) -> ChainRun:
        self._keep(before)
        if wanted <= {"mem"}:
            spikes, membranes, how = self._run(input_, bool(wanted))
            return ChainRun(spikes, {"mem": membranes} if wanted else {}, self._kept(), how)

        def advance(current: Tensor, states: dict[str, Tensor]):
            return self._advance(current), self._kept()

        obstacle = f"{' and '.join(sorted(wanted - {'mem'}))} of every step in use"
        return ChainRun.of_steps(input_, before, sorted(wanted), advance, obstacle)

    def sequence(self, input_: Tensor, *, trace: bool = False, **states: Tensor | None):
        """A whole sequence [T, B, ...] at once; equal to T calls of ``forward``.

        Args:
            input_: [T, B, ...].
            trace: return the membrane of every step, [T, B, ...], in place of the last one.
            states: as for ``forward``.

        Returns:
            What ``forward`` returns, with spikes [T, B, ...] and the states of the last step.
        """
        unknown = set(states) - set(self._states)
        if unknown:
            raise TypeError(f"unknown states {sorted(unknown)}; this layer has {self._states}")
        first = torch.empty(input_.shape[1:], dtype=input_.dtype, device=input_.device)
        self._start(states, first)
        spikes, history, _ = self._run(input_, trace)
        returned = self._returned(spikes)
        if not trace:
            return returned
        return (*returned[:-1], history) if isinstance(returned, tuple) else (returned, history)

    def _run(self, input_: Tensor | LinearDrive, trace: bool) -> tuple[Tensor, Tensor | None, str]:
        """All steps from the present state.

        Returns:
            Spikes, the membrane of every step if ``trace``, and how they ran (see ``ChainRun``).
        """
        obstacle = self._obstacle(input_.raster if isinstance(input_, LinearDrive) else input_)
        # A reset by hand would come between steps.
        single = self.reset_mechanism == "none" and input_.shape[0] == 1
        if isinstance(input_, LinearDrive) and (obstacle or single or not input_.prefers_events()):
            input_ = input_.dense()
        if obstacle or single:
            assert isinstance(input_, Tensor)
            run = self._run_steps(input_, trace)
        elif self.reset_mechanism == "none":
            run = self._run_levels(input_)
        else:
            run = self._run_fused(input_, trace)
        return *run, remark(input_, obstacle)

    def _run_steps(self, input_: Tensor, trace: bool) -> tuple[Tensor, Tensor | None]:
        spikes, membranes = [], []
        for current in input_:
            spikes.append(self._advance(current))
            if trace:
                membranes.append(self.mem)
        empty = torch.empty_like(input_)
        return (
            torch.stack(spikes) if spikes else empty,
            torch.stack(membranes) if membranes else empty,
        )

    def _surrogate(self, over: Tensor) -> Tensor:
        return self.spike_grad(over)

    def _stepped(self) -> str | None:
        if "spk" in self._states:
            if self.count_gradient:
                return "count_gradient of a recurrent layer"
            if self.reset_mechanism == "none":
                return 'reset_mechanism="none" of a recurrent layer'
            if not isinstance(self.recurrent, torch.nn.Linear):
                return "recurrent weights that are no matrix"
        if self.state_quant:
            return "state_quant"
        if self.reset_mechanism == "subtract" and not self.reset_delay:
            # A membrane that is still above the threshold is reset again a step later.
            return "immediate reset by subtraction"
        return None

    def _obstacle(self, input_: Tensor) -> str | None:
        """Why the engine would not compute exactly what the steps do, if so."""
        obstacle = self._off_the_engine(input_)
        if obstacle or self.reset_mechanism == "none":
            return obstacle
        above = self.mem > self.threshold
        if not self.reset_delay and bool(above.any()):
            return "membranes above the threshold at the start"  # reset in the first step
        if "spk" not in self._states:
            return None
        if float(self.graded_spikes_factor) != 1:
            return "graded_spikes_factor of a recurrent layer"
        fired = above if self.reset_delay else self.spk != 0
        if not torch.equal(self.spk, fired.to(self.spk.dtype)):
            return "spikes at the start that are not those of the membranes"
        return None

    def _run_fused(self, input_: Tensor | LinearDrive, trace: bool) -> tuple[Tensor, Tensor | None]:
        alpha, gain, beta = self._factors()
        recurrent = None
        if "spk" in self._states:
            assert isinstance(self.recurrent, torch.nn.Linear)  # see _stepped
            recurrent = self.recurrent.weight.t()
            bias = self.recurrent.bias
            if bias is not None:
                input_ = input_.plus(bias) if isinstance(input_, LinearDrive) else input_ + bias
        before = self.spk if recurrent is not None else None
        if before is None and self.reset_delay:
            before = self.mem > self.threshold
        reset = self.reset_mechanism
        if reset == "zero" and self.reset_delay and not isinstance(self, snntorch.Leaky):
            reset = "zero_all"
        out = run_sequence(
            input_,
            Dynamics(
                alpha, gain, beta, self.threshold,
                (self.grazing_guard * (1 - beta) * self.threshold).detach(),
                f"later_{reset}" if self.reset_delay else reset,
            ),
            Before(
                self.mem, alpha * self.syn if "syn" in self._states else None,
                earlier_spikes(self.mem, self._last), before,
            ),
            recurrent=recurrent, trace=trace,
            count_slope=self._count_slope(),
        )  # fmt: skip
        keep_record(self, out.record)
        self.mem, self._last = out.membrane, handed_on(out.membrane)
        if "syn" in self._states:
            self.syn = out.current
        if "spk" in self._states:
            self.spk = out.spikes[-1].clone()
        return out.spikes * self.graded_spikes_factor, out.trace

    def _run_levels(self, input_: Tensor | LinearDrive) -> tuple[Tensor, Tensor]:
        """All steps without a reset: integrators on the engine, then levels H(U - threshold)."""
        (alpha, gain, beta), threshold = self._factors(), self.threshold
        out = run_sequence(
            input_,
            Dynamics(
                alpha, gain, beta, torch.full_like(beta, torch.inf),
                torch.zeros_like(beta), "none",
            ),
            Before(self.mem, alpha * self.syn if "syn" in self._states else None),
            trace=True,
        )  # fmt: skip
        assert out.trace is not None
        self._record = None
        with torch.no_grad():
            tested = out.trace.detach()
            before = torch.cat([self.mem[None], tested[:-1]])
            over, rest = tested - threshold, (1 - beta) * threshold
            spikes = (over > 0).to(tested.dtype)
            slope = tested - beta * before - rest  # the current of the step, less the leak
        counts = self._count_slope()
        spikes, membranes = emit(
            out.trace, before, tested=tested, spikes=spikes, membrane=tested, slope=slope,
            floor=self.grazing_guard * rest, threshold=threshold, reset="none",
            count_slope=None if counts is None else count_slopes(counts, over),
        )  # fmt: skip
        self.mem = membranes[-1].clone()
        if "syn" in self._states:
            self.syn = out.current
        return spikes * self.graded_spikes_factor, membranes

    def _advance(self, input_: Tensor) -> Tensor:
        """One step in the host's order of operations; spikes before ``graded_spikes_factor``."""
        self._record = None
        beta, threshold, before = self._leak(), self.threshold, self._entering()
        driven = self._driven(input_)
        has_synapse, subtract = "syn" in self._states, self.reset_mechanism == "subtract"
        with torch.no_grad():
            reset = (before - threshold > 0).to(before.dtype)
        entering = before
        if self.reset_mechanism == "zero" and isinstance(self, snntorch.Leaky):
            # The value is reset, the derivative is 1 (see snn_eventprop.hosts.step).
            entering = before + ((1 - reset) * before - before).detach()

        if has_synapse:
            current = self.alpha.clamp(0, 1) * self.syn + driven
            if "spk" in self._states:
                current = current + self.recurrent(self.spk)
            free = beta * entering + current
        else:
            current, free = driven, beta * entering + driven
            if "spk" in self._states:
                back = self.recurrent(self.spk)
                current, free = current + back, free + back

        with torch.no_grad():
            if subtract:
                tested = free - reset * threshold
            elif self.reset_mechanism == "zero" and entering is before:
                tested = free - free * reset
            else:
                tested = free
            if self.state_quant:
                tested = self.state_quant(tested)
            shown = self.state_quant(tested) if self.state_quant else tested
            over = shown - threshold
            spikes = (over > 0).to(tested.dtype)
            membrane = tested
            if self._by_hand:
                membrane = tested - spikes * threshold
            elif not self.reset_delay and subtract:
                membrane = tested - (spikes - reset) * threshold
            elif not self.reset_delay and self.reset_mechanism == "zero":
                membrane = tested - (spikes - reset) * tested
        if has_synapse and self.state_quant:
            current = self.state_quant(current)
        kind: Reset
        if self.reset_mechanism == "none":
            kind = "immediate" if self._by_hand else "none"
        else:
            kind = "delayed" if self.reset_delay else "immediate"
        rest = ((1 - beta) * threshold).detach()  # what leaks from V at the threshold per step
        floor = self.grazing_guard * rest
        last_current = self.syn if has_synapse else None

        def recover() -> Tensor:
            with torch.no_grad():
                over = before - threshold
                slope = last_current - rest  # type: ignore[operator]
                return inverse_slopes(over > 0, slope, over, floor, threshold)

        counts = self._count_slope()
        slope = current.detach() - rest
        raw = spikes
        spikes, mem = emit(
            free,
            before,
            tested=tested,
            spikes=spikes,
            membrane=membrane,
            slope=slope,
            floor=floor,
            threshold=threshold,
            reset=kind,
            pending=reset,
            last=self._last,
            recover=recover if has_synapse and self.reset_delay else None,
            count_slope=None if counts is None else counts(over),
        )

        def after() -> Tensor:
            return emit(
                free, before, tested=tested, spikes=raw, membrane=tested - raw * threshold.detach(),
                slope=slope, floor=floor, threshold=threshold, reset="immediate",
            )[1]  # fmt: skip

        spikes = spikes * self.graded_spikes_factor
        if self._by_hand:
            after_reset, mem = mem, free + (tested - free).detach()
            self._last_step = LastStep(mem, spikes, lambda: after_reset)
        elif kind == "none" and handed_on(mem) is not None and not transformed():
            self._last_step = LastStep(mem, spikes, after)
        self.reset, self.mem, self._last = reset, mem, handed_on(mem)
        if has_synapse:
            self.syn = current
        if "spk" in self._states:
            self.spk = spikes
        return spikes

    def _entering(self) -> Tensor:
        """The membrane before a step. One that its caller has reset comes with its gradient."""
        entering, last = self.mem, self._last_step
        self._last_step = None
        if torch.compiler.is_compiling() or transformed():
            self._by_hand = False  # values cannot be compared there
            return entering
        if last is None or not (torch.is_grad_enabled() and entering.requires_grad):
            return entering
        by_hand = entering is not last.membrane and last.resets_to(entering, self.threshold)
        if bool(last.spikes.any()):
            self._by_hand = by_hand
        return last.after() if by_hand else entering
