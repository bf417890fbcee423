"""The layers as ordinary PyTorch: compile, export, autocast, operator checks, data parallelism."""

from __future__ import annotations

import copy
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.grid_runs import run_lif
from torch import nn

from snn_eventprop import (
    EventPropLI,
    EventPropLIF,
    EventPropNeuron,
    SpikeEvents,
    diagnostics,
    losses,
)
from snn_eventprop.discretisation import exponential
from snn_eventprop.neurons.lif import RESETS
from snn_eventprop.ops import grid as op

DT = 1e-3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        EventPropLIF(5, 6, recurrent=True, learn_tau_mem=True, learn_threshold=True, dt=DT),
        nn.Linear(6, 6, bias=False),
        EventPropNeuron(6, learn_tau_syn=True, dt=DT),
        EventPropLI(6, 3, dt=DT),
    )
    nn.init.normal_(net[0].weight, 2.0, 1.0)
    nn.init.normal_(net[1].weight, 1.5, 0.5)
    return net


def raster(batch=3, steps=60, seed=0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.random((steps, batch, 5)) < 0.1) * 1.0).float()


def step(call, net, x):
    """Output and all gradients of one training step."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    out = call(x)
    losses.SumExpLoss()(out, torch.arange(x.shape[1]) % 3).backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in net.parameters())]


def assert_same(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("backend", [
    "aot_eager", pytest.param("inductor", marks=pytest.mark.slow),
])  # fmt: skip
def test_compiled_network_equals_eager(backend):
    net = network()
    eager = step(net, net, raster())
    assert all(g.abs().sum() > 0 for g in eager)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    ours = step(compiled, net, raster())
    assert torch.equal(ours[0], eager[0])
    assert_same(ours, eager, rtol=1e-5, atol=1e-7)
    # Another number of spikes needs no other graph.
    with torch.compiler.set_stance("fail_on_recompile"):
        ours = step(compiled, net, raster(seed=1))
    assert_same(ours, step(net, net, raster(seed=1)), rtol=1e-5, atol=1e-7)


def test_compiled_function_of_events_equals_eager():
    net = network()
    second = EventPropLIF(6, 6)
    nn.init.normal_(second.weight, 1.5, 0.5)

    def run(times, units, offsets):
        events = SpikeEvents(times, units, offsets, 5, 0.06, validate=False)
        hidden = second(net[0](events))
        return net[3].integral(hidden, "exponential"), hidden.counts(), net[3](hidden)

    def gradients(call):
        events = SpikeEvents.from_dense(raster(), DT)
        times = events.times.clone().requires_grad_()
        for module in (net, second):
            module.zero_grad()
        outputs = call(times, events.units, events.offsets)
        sum(o.square().sum() for o in outputs).backward()
        parameters = [net[0].weight, net[0].recurrent_weight, net[0].log_tau_mem, second.weight]
        return [*(o.detach() for o in outputs), times.grad, *(p.grad for p in parameters)]

    eager = gradients(run)
    assert all(g.abs().sum() > 0 for g in eager)
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_same(gradients(compiled), eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", ["grid", "exact"])
def test_the_compiler_does_not_look_into_kernels(solver):
    """Without fullgraph=True it breaks its graph at operators whose number of spikes it cannot
    tell, and would go on inside of them."""
    layer = EventPropLIF(5, 6, recurrent=True, solver=solver)
    events = SpikeEvents.from_dense(raster(), DT)
    torch._dynamo.reset()
    found = torch._dynamo.explain(lambda: layer(events).times.sum())()
    assert found.break_reasons, "does not break: the test is void"
    broken = {frame.filename for reason in found.break_reasons for frame in reason.user_stack}
    traced = "\n".join(
        node.stack_trace or "" for graph in found.graphs for node in graph.graph.nodes
    )
    assert "snn_eventprop" in traced, "no graph says where it comes from: the test is void"
    assert not [name for name in broken if "backends" in name], broken
    assert "backends" not in traced, traced


def test_exported_network_equals_eager():
    net = network()
    exported = torch.export.export(net, (raster(),)).module()
    for seed in (0, 1):
        assert torch.equal(exported(raster(seed=seed)), net(raster(seed=seed)))
    assert int(diagnostics.collect(net)["0"].counts.sum()) > 0  # of real tensors


def test_autocast_leaves_spike_times_in_single_precision():
    net = network()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = net[0](raster())
        current = net[1](hidden)
        spikes = net[2](current)
        trace = net[3](spikes)
        loss = losses.SumExpLoss()(trace, torch.tensor([0, 1, 2]))
    assert hidden.dtype == spikes.dtype == trace.dtype == torch.float32
    assert current.dtype == torch.bfloat16
    assert torch.equal(hidden, net[0](raster()))
    loss.backward()
    for name, p in net.named_parameters():
        assert p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name
    # Half-precision rasters, as an autocast layer before this one gives them.
    x = raster().bfloat16().requires_grad_()
    net[:1](x).cumsum(0).sum().backward()
    assert x.grad.dtype == torch.bfloat16 and x.grad.abs().sum() > 0


@pytest.mark.parametrize("case", ["events", "currents", "hybrid", "everything"])
def test_forward_and_backward_operators_pass_torchs_own_checks(case):
    """Schema, fake kernel, autograd registration and tracing, with torch.library.opcheck."""
    rng = np.random.default_rng(0)
    size, steps, batch = 4, 30, 2
    maps = exponential(torch.full((size,), 0.02), torch.full((size,), 0.005), DT)
    coefficients = torch.stack([*maps, torch.ones(size).double()]).requires_grad_()
    weight = torch.from_numpy(rng.normal(2, 1, (5, size))).requires_grad_()
    recurrent = torch.from_numpy(rng.normal(0, 0.3, (size, size))).requires_grad_()
    x = raster(batch, steps).double()
    events = op.dense_events(x, torch.float64)
    flat = torch.zeros(size).double()
    stamps = events.bins.double().requires_grad_()
    currents = torch.from_numpy(rng.normal(0.1, 0.1, (steps, batch, size))).requires_grad_()
    state = torch.zeros(batch, size).double()
    constants = torch.cat([coefficients, flat[None]])  # and v_reset
    no = flat.new_empty(0)
    start = torch.zeros(2, batch, size).double().requires_grad_()
    probe = torch.zeros(2).double().requires_grad_()
    arguments = {
        "events": (
            list(events), [no, stamps, no], [weight, recurrent, no, no], constants.detach(), flat,
            no, [no, no, no], probe, "lif", steps, RESETS["subtract"], False, False,
        ),
        "currents": (
            list(op.no_events(batch, flat)), [no, no, currents],
            [flat.new_empty(0, size), no, no, no], constants, flat, no, [no, no, no], no, "lif",
            steps, RESETS["subtract"], False, True,
        ),
        "hybrid": (
            list(events), [no, stamps, no], [weight, recurrent, no, no], constants, flat,
            torch.full_like(flat, 0.9), [no, no, no], no, "lif", steps, RESETS["subtract"], False,
            True,
        ),
        "everything": (
            list(events), [x.requires_grad_(), no, currents], [weight, recurrent, no, no],
            constants, flat, no, [start, state, no], probe, "lif", steps, RESETS["later_zero"],
            True, True,
        ),
    }[case]  # fmt: skip
    torch.library.opcheck(torch.ops.snn_eventprop.grid_forward.default, arguments)


def test_raster_operators_pass_torchs_own_checks():
    layer = network()[0]
    events = op.dense_events(raster(), torch.float32)
    zero = torch.zeros(6)
    spikes = run_lif(
        events, 60, layer.weight.t().contiguous().detach(),
        layer._constants(6, torch.float32)[:4].detach(), zero, zero,
    )  # fmt: skip
    assert spikes.bins.numel() > 10
    stamps = spikes.stamps.detach().requires_grad_()
    where = (spikes.bins, spikes.units, spikes.offsets)
    ops = torch.ops.snn_eventprop
    torch.library.opcheck(ops.to_raster.default, (stamps, *where, 60, 6, True))
    torch.library.opcheck(ops.raster_worth_change.default, (torch.rand(60, 3, 6), *where, True))
    torch.library.opcheck(ops.dense_events.default, (raster(),))
    torch.library.opcheck(ops.dense_events.default, (raster() * 0.5,))


def test_functional_calls_and_swapped_parameters_act_as_ones_own():
    net = network()
    other = {name: p.detach() * 1.1 for name, p in net.named_parameters()}
    called = torch.func.functional_call(net, other, (raster(),))
    changed = copy.deepcopy(net)
    changed.load_state_dict(other, strict=False)
    assert torch.equal(called, changed(raster()))
    assert not torch.equal(called, net(raster()))


def test_checkpointed_segments_give_the_same_gradient():
    net = network()
    eager = step(net, net, raster())

    def checkpointed(x):
        return torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)

    assert_same(step(checkpointed, net, raster()), eager, rtol=0, atol=0)


def _rank(rank, address, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    net = network()
    parallel = nn.parallel.DistributedDataParallel(net)
    x = raster(batch=6)[:, 3 * rank : 3 * rank + 3]
    step(parallel, net, x)
    results.put((rank, [p.grad.numpy() for p in net.parameters()]))
    del parallel  # before its process group
    torch.distributed.barrier()  # so that no rank leaves while the other still talks to it
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_the_joint_batch(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    address = f"file://{tmp_path / 'meeting'}"
    ranks = [context.Process(target=_rank, args=(r, address, results)) for r in range(2)]
    for process in ranks:
        process.start()
    found = dict(results.get() for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    net = network()
    joint = step(net, net, raster(batch=6))[2:]
    for one, other, whole in zip(found[0], found[1], joint, strict=True):
        whole = whole.numpy()
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, whole, rtol=1e-4, atol=1e-6 * np.abs(whole).max())


class _Spikes(torch.utils.data.Dataset):
    """A data set that runs a layer in the worker process."""

    def __init__(self):
        self.layer = EventPropLIF(5, 6)
        nn.init.constant_(self.layer.weight, 2.0)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with torch.no_grad():
            return self.layer(raster(seed=index))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_workers_do_not_hang_after_use():
    data = _Spikes()
    expected = [data[i] for i in range(4)]  # starts the threads of this process
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=1, timeout=60, multiprocessing_context="fork"
    )
    for ours, theirs in zip(loader, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_threads_that_call_at_once_do_not_mix_their_batches():
    net = network()

    def run(seed):
        with torch.no_grad():
            return net(raster(seed=seed))

    alone = [run(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for ours, theirs in zip(pool.map(run, range(8)), alone, strict=True):
            assert torch.equal(ours, theirs)
