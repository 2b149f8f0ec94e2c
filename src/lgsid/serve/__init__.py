"""Stage 6: answers to users: what they can reach first, what interests them second."""
