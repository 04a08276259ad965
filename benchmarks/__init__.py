"""Measurements of whole nodes, beside references in the same run; ``scripts/bench`` runs them."""
