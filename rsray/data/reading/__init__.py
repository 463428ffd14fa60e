"""How pictures and tables are read, whatever data set they belong to."""
