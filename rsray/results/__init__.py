"""From certificates to what a reader of papers wants to see.

`certificates` holds the Arrow schema and the files, `cohen` reads and writes published logs,
`summary` condenses one result, `compare` loads several and says how they differ, `table`, `plot`
and `page` show them.
"""
