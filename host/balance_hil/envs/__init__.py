"""Environments that come with the package. Each is one folder behind the environment seam."""
