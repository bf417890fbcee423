"""One file for each neuron: its dynamics, their adjoint, and what happens at a spike."""
