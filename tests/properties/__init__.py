"""Properties of trainings that are put together from parts at random."""
