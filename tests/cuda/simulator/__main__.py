"""Write the table of CuPy's names again, from the CuPy that is installed."""

from . import table

table.FILE.write_text(table.written())
