"""The slider's picture holds the counts, and what it says is text."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from noisylabels.evidence import slider

VALUES = np.array([[0.1, 0.1, 0.9, 5.0], [0.1, 0.6, 0.6, -3.0]])
TOLD = dict(low=0.0, high=1.0, start=1, ticks=[(0.0, "0"), (1.0, "<1>")], label="Loss",
            alt="Two heaps that part.", bins=2)


def made(**changes):
    told = {**TOLD, **changes}
    return slider.histograms(VALUES, np.array([0, 0, 1, 1], bool), [1, 2],
                             ["epoch 1", "epoch 2 </script>"], **told)._repr_html_()


def test_the_counts_of_each_epoch_are_in_the_page():
    data = json.loads(re.search(r"data = (\{.*?\});", made())[1].replace("<\\/", "</"))
    assert data["rows"] == [[2, 0, 0, 2], [1, 1, 1, 1]], "clipped to the range"
    assert (data["bins"], data["most"], data["words"][0]) == (2, 2, "epoch 1")
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill', made())]
    assert heights == [slider.HEIGHT / 2] * 4, "the picture without script: the second epoch"


def test_what_it_says_is_text_and_it_has_no_address():
    markup = made()
    assert markup.count("</script>") == 1 and "&lt;1&gt;" in markup
    assert 'aria-label="Two heaps that part."' in markup and 'aria-label="Epoch"' in markup
    assert "http" not in markup and "src=" not in markup and len(markup) < 6_000


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"values of shape \(2, 4\), 1 epochs, 1 texts and 4"):
        slider.histograms(VALUES, np.zeros(4, bool), [1], ["a"], **TOLD)
    with pytest.raises(ValueError, match="a text that stands in for it"):
        made(alt=" ")
