"""Bundled predictors: JSON files, found as package data."""
