from segtasks.cli import main

main()
