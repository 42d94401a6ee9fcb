"""Self-contained HTML pages and the plots on them."""
