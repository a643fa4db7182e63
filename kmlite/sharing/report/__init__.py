"""OUT/report.html: what is read for it, its figures, its words, its template."""
