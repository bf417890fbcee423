"""snnTorch's neurons; imported as ``snn_eventprop.snntorch``."""
