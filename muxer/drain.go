package muxer

// Drain lets connections run on and no other begin: the guest's REQUESTs are
// answered by RST, CONNECT lines by end of file, and so is who waits for a host
// program or for the guest by now. done is called on the loop, once, when the last
// connection is over and its bytes are with the host program.
func (m *Muxer) Drain(done func()) {
	m.draining, m.drained = true, done
	for c := range m.sockets {
		switch {
		case c.stage == stageWaiting:
			m.refuse(c, HandshakeDraining)
		case c.stage == stageDialing:
			m.kill(c, ResetDraining)
		case c.stage == stageOpen && c.isUnasked():
			m.demote(c)
		}
	}
}

// finishDrain tells of the end. Host programs that have said nothing yet are none
// to wait for: there may always be another.
func (m *Muxer) finishDrain() {
	if m.drained == nil || len(m.table) > 0 || m.stats.Tails.Load() > 0 {
		return
	}
	done := m.drained
	m.drained = nil
	done()
}
