"""The noise of the threshold that the hybrid gradient assumes.

A spike that is not there has no exact gradient. Let each peak of V meet a threshold theta - xi with
a random xi >= 0 of density h. A peak below theta is then a spike with the probability that xi
exceeds theta - V, and the derivative of that probability with respect to V is h(theta - V). The
noise lowers the threshold only, so spikes that are there stay. As its width goes to 0, the mean
gradient over an ensemble of inputs goes to the derivative of the mean loss: peaks lie as densely
just below the threshold as just above it, where spikes are about to vanish.
"""


def density(distance, width):
    """h at a distance from the threshold, below 0 and above -width: a ramp that falls to 0 there.

    2 (width - |distance|) / width^2, of area 1.
    """
    rest = width - abs(distance)
    return (rest + rest) / (width * width)
