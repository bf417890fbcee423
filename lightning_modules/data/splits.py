"""Which samples train, validate and test."""

from __future__ import annotations

import numpy as np

from lightning_modules.data.spike_arrays import PackedSpikes, SamplePool


def speakers_of(packed: PackedSpikes, indices: np.ndarray | slice = slice(None)) -> tuple[int, ...]:
    """The speakers of some samples, ascending."""
    return tuple(int(s) for s in np.unique(packed.speakers[indices]))


def pools(
    packed: dict[str, PackedSpikes],
    held_out: np.ndarray | None,
    limit_samples: int | None,
    seed: int,
) -> dict[str, SamplePool]:
    """The samples of ``"train"``, ``"val"`` and ``"test"``.

    Args:
        packed: the files ``"train"`` and ``"test"``, and perhaps ``"valid"``.
        held_out: [N] mask of the training file's samples that validate; None: ``"valid"`` does.
        limit_samples: keep at most this many of each, drawn at random.
        seed: of that draw.
    """
    train = np.arange(len(packed["train"]))
    if held_out is None:
        chosen = {
            "train": (packed["train"], train),
            "val": (packed["valid"], np.arange(len(packed["valid"]))),
        }
    else:
        chosen = {
            "train": (packed["train"], train[~held_out]),
            "val": (packed["train"], train[held_out]),
        }
    chosen["test"] = (packed["test"], np.arange(len(packed["test"])))
    rng = np.random.default_rng(seed)
    found = {}
    for split, (data, indices) in chosen.items():
        if limit_samples is not None:
            indices = np.sort(rng.permutation(indices)[:limit_samples])
        found[split] = SamplePool(data, indices)
    return found


def by_sample(train: PackedSpikes, fraction: float, seed: int) -> np.ndarray:
    """[N] mask of held-out samples: the same share of every speaker and class."""
    count = len(train)
    groups = train.speakers * (len(train.class_names) + 1) + train.labels
    order = np.random.default_rng(seed).permutation(count)
    order = order[np.argsort(groups[order], kind="stable")]
    # Going through the groups in order, take each sample at which the accumulated share reaches
    # another whole number.
    share = np.floor(np.arange(count + 1) * fraction + 0.5)
    held_out = np.zeros(count, dtype=bool)
    held_out[order[np.diff(share) > 0]] = True
    return held_out


def by_speaker(
    train: PackedSpikes,
    *,
    fraction: float,
    speakers: list[int] | None,
    fold: int | None,
    seed: int,
) -> np.ndarray:
    """[N] mask of held-out samples: those of whole speakers.

    Args:
        train: the training file.
        fraction: share of the speakers, where neither ``speakers`` nor ``fold`` is given.
        speakers: those to hold out.
        fold: the number of the one speaker, counted from 0 over the ascending speakers.
        seed: of the choice by ``fraction``.

    Raises:
        ValueError: there is no such speaker, or none can be spared.
    """
    known = list(speakers_of(train))
    if fold is not None:
        if not 0 <= fold < len(known):
            raise ValueError(
                f"fold must be in 0..{len(known) - 1} (one for each training speaker), got {fold}"
            )
        speakers = [known[fold]]
    elif speakers is not None:
        unknown = sorted(set(speakers) - set(known))
        if unknown:
            raise ValueError(
                f"val_speakers {unknown} are not in the training file; its speakers are {known}"
            )
    elif fraction == 0:
        speakers = []
    elif len(known) < 2:
        raise ValueError(
            f"the training file has {len(known)} speaker(s), none to spare for validation; use "
            "val_by='sample', or val_fraction=0 for no validation"
        )
    else:
        count = min(max(1, round(fraction * len(known))), len(known) - 1)
        speakers = np.random.default_rng(seed).permutation(known)[:count].tolist()
    return np.isin(train.speakers, speakers)
