"""From certificates to what a reader of papers wants to see.

`certificates` holds the Arrow schema and the files, `cohen` reads and writes published logs,
`summary` condenses one result, `sources` loads several, `compare` says how they differ, `paired`
compares them image by image, `macer_mat` reads results of the code of MACER, `table`, `formats`,
`plots`, `page`, `leaderboard` and `explanation` show them.
"""
