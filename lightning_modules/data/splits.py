"""Which training samples are held out for validation."""

from __future__ import annotations

import numpy as np

from lightning_modules.data.packed import PackedSpikes


def speakers_of(packed: PackedSpikes, indices: np.ndarray | slice = slice(None)) -> tuple[int, ...]:
    """The voices of some samples, ascending."""
    return tuple(int(s) for s in np.unique(packed.speakers[indices]))


def by_sample(train: PackedSpikes, fraction: float, seed: int) -> np.ndarray:
    """[N] mask of held-out samples: the same share of every voice and class."""
    count = len(train)
    groups = train.speakers * (len(train.class_names) + 1) + train.labels
    order = np.random.default_rng(seed).permutation(count)
    order = order[np.argsort(groups[order], kind="stable")]
    # Going through them group by group, take the one at which the share sums up to a further
    # whole number.
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
    """[N] mask of held-out samples: those of whole voices.

    Args:
        train: the training file.
        fraction: share of the voices, if neither of the next two names them.
        speakers: the voices.
        fold: the number of the one voice, counted from 0 over the ascending voices.
        seed: of the choice by ``fraction``.

    Raises:
        ValueError: there is no such voice, or none to spare.
    """
    known = list(speakers_of(train))
    if fold is not None:
        if not 0 <= fold < len(known):
            raise ValueError(
                f"fold must be in 0..{len(known) - 1} (one for each training voice), got {fold}"
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
            f"the training file has {len(known)} voice(s), none to spare for validation; use "
            "val_by='sample', or val_fraction=0 for no validation"
        )
    else:
        count = min(max(1, round(fraction * len(known))), len(known) - 1)
        speakers = np.random.default_rng(seed).permutation(known)[:count].tolist()
    return np.isin(train.speakers, speakers)
