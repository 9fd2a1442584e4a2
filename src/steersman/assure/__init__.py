"""What takes a trained policy and says something of it, or makes it safer."""
