"""The resource: every field, its default, what it means, and the rules between fields."""
