"""``Leaky``, ``RLeaky``, ``Synaptic`` and ``RSynaptic`` of snnTorch with exact gradients.

Over 400 lines: what the four classes share is one mixin, which mirrors the host's steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import snntorch
import torch
from torch import Tensor

from ...diagnostics import keep_record
from ..adapter import GRAZING_GUARD, ExactGradient, handed_on
from ..fusion.chain_recorder import recorder, whole
from ..fusion.chains import ChainRun, remark
from ..linear_current import LinearDrive
from ..sequence import Before, Dynamics, count_slopes, run_sequence
from ..step import Reset, emit, inverse_slopes
from ..step_memory import earlier_spikes
from ._surrogates import portable


class SnnTorchNeuron(ExactGradient):
    r"""What the four classes share: snnTorch's step, with the gradient of ``hosts.step``.

    .. math:: I[k] = \alpha I[k-1] + X[k], \qquad U[k] = \beta U[k-1] + I[k] - R[k]\,\theta

    (alpha = 0 for Leaky.) A mixin in front of the host's class, which keeps constructor,
    parameters and names.

    Args (beyond the host's, keyword only):
        grazing_guard: smallest slope of U at a spike used in the gradient, in units of
            threshold * (1 - beta); 0 switches it off.
        count_gradient: a loss on spike counts has a zero exact gradient, for spikes move, they do
            not appear. A positive number adds that share of the surrogate gradient of
            ``spike_grad`` to the exact one, for every layer so built. A heuristic.
        multi_step: ``forward`` takes a whole sequence [T, B, ...] instead of one step [B, ...].

    ``spike_grad`` and ``surrogate_disable`` are accepted; without ``count_gradient`` they have no
    effect. ``inhibition`` raises: the winner of a step has no differentiable time.
    """

    _own_arguments = ("grazing_guard", "count_gradient", "multi_step")
    _states: tuple[str, ...] = ("mem",)

    # What the host's classes define.
    alpha: Tensor
    beta: Tensor
    threshold: Tensor
    graded_spikes_factor: Tensor
    spk: Tensor
    syn: Tensor
    mem: Tensor
    recurrent: Callable[[Tensor], Tensor]
    spike_grad: Callable[[Tensor], Tensor]
    state_quant: Callable[[Tensor], Tensor] | None
    reset_mechanism: str
    reset_delay: bool
    inhibition: bool
    init_hidden: bool
    output: bool

    def __init__(
        self,
        *args,
        grazing_guard: float = GRAZING_GUARD,
        count_gradient: float = 0.0,
        multi_step: bool = False,
        **kwargs,
    ) -> None:
        known = snntorch.SpikingNeuron.instances
        before = len(known)
        try:
            super().__init__(*args, **kwargs)
            refusal = self.refusal(self)
            if refusal:
                raise ValueError(f"{refusal}; use snntorch.{type(self).__name__} for this layer")
            self._adopt(grazing_guard, count_gradient, multi_step)
        except Exception:
            del known[before:]  # or snntorch.utils.reset would meet half a neuron
            raise

    @staticmethod
    def refusal(neuron: snntorch.SpikingNeuron) -> str | None:
        """Why this neuron of the host cannot have an exact gradient, if so."""
        if neuron.inhibition:
            return "inhibition=True has no exact gradient: being the largest is no spike time"
        return None

    def _adopt(
        self,
        grazing_guard: float = GRAZING_GUARD,
        count_gradient: float = 0.0,
        multi_step: bool = False,
    ) -> None:
        """Turn an instance of the host's class, whose class has been set to ours, into ours."""
        super()._adopt(grazing_guard, count_gradient)
        self.multi_step = bool(multi_step)
        self.spike_grad = portable(self.spike_grad)
        self._enlist()
        for name in self._states:
            if name in self._buffers:
                self._non_persistent_buffers_set.discard(name)
                setattr(self, name, self._buffers.pop(name))

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return f"{shown}, multi_step=True" if self.multi_step else shown

    def _release(self) -> None:
        """Undo ``_adopt``, but for ``spike_grad``, which is the same function."""
        super()._release()
        for name in self._states:
            self.register_buffer(name, self.__dict__.pop(name).detach(), persistent=False)

    # States are plain attributes, not buffers: DDP would broadcast buffers from rank 0.
    def _init_mem(self) -> None:
        for name in self._states:
            setattr(self, name, torch.zeros(0))

    def reset_mem(self) -> Tensor | tuple[Tensor, ...]:
        """Set all states to zero, keeping their shapes, and return them."""
        for name in self._states:
            setattr(self, name, torch.zeros_like(getattr(self, name), requires_grad=False))
        states = tuple(getattr(self, name) for name in self._states)
        return states if len(states) > 1 else states[0]

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        for name in self._states:
            setattr(self, name, fn(getattr(self, name)))
        return self

    def __getstate__(self) -> dict:
        state = super().__getstate__()
        for name in (*self._states, "reset"):
            if isinstance(state.get(name), Tensor):
                state[name] = state[name].detach()
        return state

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._enlist()

    def _enlist(self) -> None:
        """Be on snnTorch's list, by which ``utils.reset`` finds neurons, as a copy too.

        By a weak reference, for what stands on the list itself is never freed.
        """
        known = snntorch.SpikingNeuron.instances
        mine = self, *weakref.getweakrefs(self)
        if any(entry is own for entry in known for own in mine):
            return

        def leave(dead) -> None:
            # The place stays until the next one comes: snnTorch may be counting through the list.
            known[:] = [None if entry is dead else entry for entry in known]

        known[:] = [entry for entry in known if entry is not None]
        known.append(weakref.proxy(self, leave))

    def _start(self, given: dict[str, Tensor | None], like: Tensor) -> None:
        if self.init_hidden and any(value is not None for value in given.values()):
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise TypeError(
                f"{names} must not be passed while init_hidden=True: the layer keeps its own "
                "state (clear it with reset_mem())"
            )
        for name in self._states:
            if given.get(name) is not None:
                setattr(self, name, given[name])
            if getattr(self, name).shape != like.shape:
                setattr(self, name, torch.zeros_like(like))

    def _returned(self, spikes: Tensor):
        if self.init_hidden and not self.output:
            return spikes
        return spikes, *(getattr(self, name) for name in self._states if name != "spk")

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

    def _kept(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._states}

    def _keep(self, states: dict[str, Tensor]) -> None:
        for name, value in states.items():
            setattr(self, name, value)

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
            Spikes, the membrane of every step if asked, and how they ran (see ``ChainRun``).
        """
        obstacle = self._obstacle(input_.raster if isinstance(input_, LinearDrive) else input_)
        if isinstance(input_, LinearDrive) and (obstacle or not input_.prefers_events()):
            input_ = input_.dense()
        if obstacle:
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
            # What is still above the threshold, snnTorch resets again a step later.
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
        alpha = self.alpha.clamp(0, 1) if "syn" in self._states else torch.zeros_like(self.beta)
        beta = self.beta.clamp(0, 1)
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
                alpha, torch.ones_like(beta), beta, self.threshold,
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
        beta, threshold = self.beta.clamp(0, 1), self.threshold
        alpha = self.alpha.clamp(0, 1) if "syn" in self._states else torch.zeros_like(beta)
        out = run_sequence(
            input_,
            Dynamics(
                alpha, torch.ones_like(beta), beta, torch.full_like(beta, torch.inf),
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
        beta, threshold, before = self.beta.clamp(0, 1), self.threshold, self.mem
        has_synapse, subtract = "syn" in self._states, self.reset_mechanism == "subtract"
        with torch.no_grad():
            reset = (before - threshold > 0).to(before.dtype)
        entering = before
        if self.reset_mechanism == "zero" and isinstance(self, snntorch.Leaky):
            # The value is reset, the derivative is 1 (see snn_eventprop.hosts.step).
            entering = before + ((1 - reset) * before - before).detach()

        if has_synapse:
            current = self.alpha.clamp(0, 1) * self.syn + input_
            if "spk" in self._states:
                current = current + self.recurrent(self.spk)
            free = beta * entering + current
        else:
            current, free = input_, beta * entering + input_
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
            if not self.reset_delay and subtract:
                membrane = tested - (spikes - reset) * threshold
            elif not self.reset_delay and self.reset_mechanism == "zero":
                membrane = tested - (spikes - reset) * tested
        if has_synapse and self.state_quant:
            current = self.state_quant(current)
        kind: Reset
        if self.reset_mechanism == "none":
            kind = "none"
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
        spikes, mem = emit(
            free,
            before,
            tested=tested,
            spikes=spikes,
            membrane=membrane,
            slope=current.detach() - rest,
            floor=floor,
            threshold=threshold,
            reset=kind,
            pending=reset,
            last=self._last,
            recover=recover if has_synapse and self.reset_delay else None,
            count_slope=None if counts is None else counts(over),
        )
        spikes = spikes * self.graded_spikes_factor
        self.reset, self.mem, self._last = reset, mem, handed_on(mem)
        if has_synapse:
            self.syn = current
        if "spk" in self._states:
            self.spk = spikes
        return spikes


class Leaky(SnnTorchNeuron, snntorch.Leaky):
    """``snntorch.Leaky``; its gradient is exact for currents that are smooth in time.

    Fed by spikes, U jumps at each input spike and no slope exists: then the gradient is that of
    the same jumps spread over one bin.
    """

    def forward(self, input_: Tensor, mem: Tensor | None = None):
        return self._call(input_, mem=mem)


class RLeaky(SnnTorchNeuron, snntorch.RLeaky):
    """``snntorch.RLeaky``; see ``Leaky`` for what its gradient means."""

    _states = ("spk", "mem")

    def forward(self, input_: Tensor, spk: Tensor | None = None, mem: Tensor | None = None):
        return self._call(input_, spk=spk, mem=mem)


class Synaptic(SnnTorchNeuron, snntorch.Synaptic):
    """``snntorch.Synaptic``, whose gradient converges to the exact one as the step shrinks."""

    _states = ("syn", "mem")

    def forward(self, input_: Tensor, syn: Tensor | None = None, mem: Tensor | None = None):
        return self._call(input_, syn=syn, mem=mem)


class RSynaptic(SnnTorchNeuron, snntorch.RSynaptic):
    """``snntorch.RSynaptic``, whose gradient converges to the exact one as the step shrinks."""

    _states = ("spk", "syn", "mem")

    def forward(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        syn: Tensor | None = None,
        mem: Tensor | None = None,
    ):
        return self._call(input_, spk=spk, syn=syn, mem=mem)
