"""What a row, a batch and a table must be like, and where the rows go that are not."""
