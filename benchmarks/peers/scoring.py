"""The fitted pipeline by hand: two dictionaries for the categories, and treelite for the trees."""

import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import joblib
import numpy as np
import treelite.gtil
import treelite.sklearn


def scorer() -> Callable[[Sequence[Any]], list[float]]:
    """Scores objects that have a row's values as attributes: (n,) probabilities."""
    columns, trees = joblib.load(os.environ["MODEL"])
    _, encoder, texts = columns.transformers_[0]
    numbers = [name for name in columns.feature_names_in_ if name not in texts]
    codes = [{text: float(code) for code, text in enumerate(known)} for known in encoder.categories_]
    text_of, number_of = attrgetter(*texts), attrgetter(*numbers)
    model = treelite.sklearn.import_model(trees)

    def score(rows: Sequence[Any]) -> list[float]:
        encoded = [
            (*(known.get(text, -1.0) for known, text in zip(codes, text_of(row), strict=True)), *number_of(row))
            for row in rows
        ]
        return treelite.gtil.predict(model, np.array(encoded), nthread=1).ravel().tolist()

    return score
