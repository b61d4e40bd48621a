package csm

// MaxSpare is the bound of a Pool's unused memory.
const MaxSpare = maxSpare

// Spare returns how many bytes of unused chunks the pool keeps.
func (p *Pool) Spare() int { return p.spare }

// StartCounters moves the counters of a new connection to where a long transfer
// would have brought them: rx bytes sent to the guest and consumed by it, tx
// bytes taken from it and forwarded.
func (c *Conn) StartCounters(rx uint64, tx uint32) {
	c.rx.sent, c.rx.forwarded = rx, rx
	c.tx.received, c.tx.forwarded, c.tx.told = uint64(tx), tx, tx
}
