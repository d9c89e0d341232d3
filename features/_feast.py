"""What `feast -c features` reads: every declared domain as Feast objects. Nothing of Headway imports this file."""

from pipelines.store.feature_store import objects

globals().update({f"_{number}": thing for number, thing in enumerate(objects())})
