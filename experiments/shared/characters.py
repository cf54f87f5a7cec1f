"""Small images in a terminal: darker ink, denser characters."""

import numpy as np

INK = " .:-=+*#%@"


def as_text(images) -> str:
    """Images [n, height, width, ...] with ink from 0 to 1, side by side; a pixel is two characters wide."""
    images = np.asarray(images).reshape(*images.shape[:3])
    levels = (images.clip(0, 1) * (len(INK) - 1)).round().astype(int)
    rows = levels.transpose(1, 0, 2)
    return "\n".join("  ".join("".join(2 * INK[level] for level in image) for image in row) for row in rows)
