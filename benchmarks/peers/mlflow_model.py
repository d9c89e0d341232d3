"""Saves the fitted pipeline as MLflow does: python mlflow_model.py FOLDER; then mlflow models serve -m FOLDER."""

import os
import sys

import joblib
import mlflow.sklearn

mlflow.sklearn.save_model(
    joblib.load(os.environ["MODEL"]),
    sys.argv[1],
    pyfunc_predict_fn="predict_proba",
    serialization_format="cloudpickle",
    pip_requirements=[],  # else it imports the model once more, to guess them
)
