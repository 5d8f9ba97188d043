"""What a notebook shows of a figure is the figure, with fewer colours."""

import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from labbook import style


def test_a_shown_figure_is_saved_closed_and_looks_as_it_was_drawn(tmp_path):
    style.apply()
    figure, axes = plt.subplots()
    for number, colour in enumerate(style.PALETTE):
        axes.fill_between([0, 1], [number, number + 1], alpha=0.3, color=colour)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=figure.dpi, bbox_inches="tight")
    shown = style.show(figure, tmp_path, "bands")
    assert {path.name for path in tmp_path.iterdir()} == {"bands.png", "bands.pdf"}
    assert figure.number not in plt.get_fignums()  # else the notebook would draw it once more
    with Image.open(io.BytesIO(shown.data)) as image, Image.open(drawn) as whole:
        assert image.mode == "P"
        moved = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(whole.convert("RGB"), int))
    assert moved.max() <= 20
