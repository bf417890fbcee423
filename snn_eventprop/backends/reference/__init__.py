"""Both solvers in float64, to be read and compared with."""
