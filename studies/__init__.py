"""The studies of the documents, from data to a page of tables, charts and findings.

bash launch/studies.sh [DIR] --photos=FOLDER

A study is a file here with `steps(plan)` and `write(plan)`, and a line in `STUDIES`.
"""
