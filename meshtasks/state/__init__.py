"""What is remembered between messages and over restarts."""
