"""Tables as files: CSV, Parquet and the JSON of a schema, read and written."""
