"""Long runs that break everything they can reach: a checker of sets, a soak, and one table of them all."""
