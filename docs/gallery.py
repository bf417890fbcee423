"""Draw the pictures of the documentation and print the numbers beside them.

    python docs/gallery.py                  all of them, into docs/
    python docs/gallery.py neurons codes    some

Two of them show a network, which is trained first: a few minutes. ``--ckpt_path`` takes a trained
one, with one hidden layer, instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pictures import adjoint, augmentations, codes, digits, network, neurons, one_neuron, style
from pictures.trained import Trained, load

PICTURES: dict[str, Callable[[], style.Picture]] = {
    "neurons": neurons.picture,
    "ann_snn": one_neuron.picture,
    "codes": codes.picture,
    "digits": digits.picture,
    **augmentations.PICTURES,
}
OF_A_TRAINED_NETWORK: dict[str, Callable[[Trained], style.Picture]] = {
    "raster": network.picture,
    "adjoint": adjoint.picture,
}


def main(arguments: list[str] | None = None) -> None:
    everything = [*PICTURES, *OF_A_TRAINED_NETWORK]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(everything))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder")
    parser.add_argument("--ckpt_path", type=Path, help="checkpoint of a trained network")
    parser.add_argument("--small", action="store_true", help="train it only briefly")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(everything)
    if unknown:
        names = ", ".join(everything)
        parser.error(f"no picture is called {', '.join(unknown)}; choose from {names}")
    trained = cache(lambda: load(options.ckpt_path, options.small))
    for name in options.names or everything:
        with style.style():
            if name in PICTURES:
                figure, facts = PICTURES[name]()
            else:
                figure, facts = OF_A_TRAINED_NETWORK[name](trained())
            path = options.output / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            style.save(figure, path)
        print(f"{name}.png", *facts, sep="\n", end="\n\n", flush=True)


if __name__ == "__main__":
    main()
