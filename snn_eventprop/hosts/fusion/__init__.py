"""Loops over time in a model, run layer by layer on the engine: ``swap(model, fuse=True)``.

nodes           the graph of a recorded forward pass
lazy_tensor     tensors without values, one for each node
recorder        records a function of tensors
chains          consecutive steps of one neuron, run as one sequence
chain_recorder  a recorder that gathers steps into chains
left_neurons    neurons that were not swapped, whose steps run one by one
module_state    undoes the changes that a forward pass makes on modules
fuse            models whose forward pass runs so where it can

Why not torch's own tracing? Both ways were measured on Linear-Leaky-Linear-Leaky with explicit
states, in processor time on one thread. ``make_fx`` (fake tensors) makes 4,707 nodes of 100 steps
in 17 s and 14,107 of 300 in 28 s; 1,000 steps did not end within five minutes. A Dynamo backend
(``torch.compile(backend=...)``) gets 100 steps as one graph of 4,111 nodes in 21 s, traces all of
them again in the second call, as the first one has changed the shape of the states, and for a
sequence one step longer (30 s each); 1,000 steps did not end within five minutes either. A neuron's
step would then have to be found among the elementary operations that it was taken apart into. The
recorder keeps calls whole: one node for a linear layer, one chain for all steps of a neuron.
"""
