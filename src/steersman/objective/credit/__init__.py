"""How a response's advantage is shared out over its tokens."""
