"""Stage 4b: generative recommenders that speak in semantic IDs."""
