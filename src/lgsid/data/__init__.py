"""Stage 1: tables and their checks, region filling, importers and the simulated world."""
