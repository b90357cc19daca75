"""Sample data sets: built in, or downloaded."""
