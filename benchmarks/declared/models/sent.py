"""The benchmark's model, its features sent with the request."""

from models.looked_up import declared

MODEL = declared("sent", "given")
