from keepaug.console.errors import explain_errors
from keepaug.study.command import main

if __name__ == '__main__':
    explain_errors(main)
