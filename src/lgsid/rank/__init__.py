"""Stage 4a: rankers that take semantic IDs as features."""
