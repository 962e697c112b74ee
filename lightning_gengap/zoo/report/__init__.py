"""Reports, cards and figures written from scores. May import zoo.evaluate."""
