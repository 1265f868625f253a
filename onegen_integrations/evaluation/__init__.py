"""How good a checkpoint is: metrics, the published benchmarks, and the recipe of the bundled checkpoint."""
