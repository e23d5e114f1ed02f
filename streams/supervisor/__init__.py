"""Starting flows, watching them, starting them again, and letting them end."""
