"""Configuration: environment variables, and YAML files with their models."""
