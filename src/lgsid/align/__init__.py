"""Stage 2: prompts, text encoders, and their cached embeddings."""
