"""Training of OneGen models: data, losses, trainer, and the recipe of the bundled checkpoint."""
