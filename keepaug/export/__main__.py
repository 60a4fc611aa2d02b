"""python -m keepaug.export FORMAT CHECKPOINT --output PATH"""

from keepaug.console.errors import explain_errors
from keepaug.export.command import main

if __name__ == '__main__':
    explain_errors(main)
