"""Configuration: the environment, and YAML files read into models."""
