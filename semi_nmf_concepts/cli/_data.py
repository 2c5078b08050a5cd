"""Images of the user in two parts, for finding concepts and for testing them."""


def check_enough(n_images, n_components):
    """End the run before anything is made where there are too few images."""
    if n_images < n_components:
        raise ValueError(
            f"{n_components} concepts need at least as many training images, got {n_images}; "
            "give more images or a smaller --n-components"
        )


def split(n, test_fraction, seed):
    """Positions for training and for testing, in random order."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(n)
    n_test = round(n * test_fraction)
    return order[n_test:], order[:n_test]


def take(items, positions):
    """The items at some positions, in their own order."""
    return None if items is None else [items[position] for position in sorted(positions)]
