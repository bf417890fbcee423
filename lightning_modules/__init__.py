"""Training on spoken digits: data, the reference network, and the commands.

    python -m lightning_modules.fit         train (``--help`` lists the options)
    python -m lightning_modules.evaluate    test a checkpoint
    python -m lightning_modules.predict     classify the samples of a file
    python -m lightning_modules.export      write a network for snnTorch, Norse and NIR
    python -m lightning_modules.compare     train one network by several methods
    python -m lightning_modules.crossval    leave one speaker out
    python -m lightning_modules.sweep       search for good options

The commands are the modules of this folder. Imports run one way, each room from those before it:

    data        spike files, packed arrays, batches, augmentation
    model       the reference network and its options
    methods     ways to compute its gradients, one file each
    training    loss, optimiser, metrics, the rules of the published recipe
    options     what the commands accept (imports of ``data`` only what needs no torch)
    run         one run: folder, checkpoints, logs, figures
    studies     several runs: comparisons, cross-validation, sweeps, repeated seeds
    commands    check their options first; only then do they import torch
"""
