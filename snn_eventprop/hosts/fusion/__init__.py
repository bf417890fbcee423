"""Loops over time in a model, run layer by layer on the engine: ``swap(model, fuse=True)``.

nodes           the graph of a recorded forward pass
lazy_tensor     tensors that stand for its nodes
recorder        records a function of tensors
chains          consecutive steps of one neuron, run as one sequence
chain_recorder  a recorder that gathers steps into chains
module_state    what a forward pass changes on modules, to be put back
fuse            models whose forward pass runs so where it can

Why not torch's own tracing? ``make_fx`` (fake tensors) was measured on Linear-Leaky-Linear-Leaky
with explicit states, in processor time on a busy machine. It makes 47 nodes of each step: 4,707
for 100 steps in 17 s, 14,107 for 300 in 28 s; 1,000 steps did not end within five minutes. It
would run again for every new shape, and a neuron's step would have to be found among the
elementary operations that it was taken apart into. The recorder keeps calls whole: one node for a
linear layer, one chain for all steps of a neuron. A Dynamo backend has not been measured.
"""
