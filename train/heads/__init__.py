"""Parts that are fitted to what a tower says of pictures, and their losses."""
