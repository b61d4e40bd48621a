package muxer

// Rest readies the rings for a loop that sleeps: what gathers in the rx ring is
// announced, and the driver is asked for a kick when it adds to the tx ring. It is not
// before: a loop that is busy, with the rx ring or by polling, takes what is there each
// turn, and a kick would cost the driver and the loop more than that.
func (m *Muxer) Rest() (more bool) {
	m.noEventFound()
	if !m.looksAtTx() {
		return false
	}
	if m.tx.ArmKick() {
		return true
	}
	m.txWaits = false
	return false
}

// Look reports whether the driver has added to the tx ring since Work. What gathers in
// the rx ring is announced.
func (m *Muxer) Look() (more bool) {
	m.noEventFound()
	return m.looksAtTx() && !m.tx.Empty()
}

// looksAtTx reports whether packets are taken off the tx ring without a kick.
func (m *Muxer) looksAtTx() bool { return m.running() && m.txWaits && m.txStall == stallNone }
