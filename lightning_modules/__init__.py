"""Training on spoken digits: data, the reference network, and command-line entry points.

    python -m lightning_modules.fit         train (``--help`` lists every option)
    python -m lightning_modules.evaluate    test a checkpoint
"""
