"""One adapter per training engine; they share the core and never import each other."""
