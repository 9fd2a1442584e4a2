"""What a policy is made of: networks with explicit initial noise, ordering policies of inventory networks."""
