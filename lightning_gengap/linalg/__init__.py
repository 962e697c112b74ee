"""Linear algebra that knows neither networks nor samples: Lanczos and leverages. May import errors alone."""
