"""Inventory networks as vectorised differentiable simulators, with scenarios of demand."""
