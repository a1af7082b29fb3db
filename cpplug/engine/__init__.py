"""Plans and does the work: options, ISR chains, stacks, runs, verification, ledger."""
