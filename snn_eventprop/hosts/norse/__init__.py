"""Norse's neurons; imported as ``snn_eventprop.norse``."""
