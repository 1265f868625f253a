"""The engine: torch and transformers live here and nothing of the package above it."""
