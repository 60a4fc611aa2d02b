"""python -m keepaug.export FORMAT CHECKPOINT --output PATH"""

from keepaug.export.command import main

main()
