"""The product without its triggers: rules, stores, services, messages and workflows."""

__version__ = "0.1.0"
