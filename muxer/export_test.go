package muxer

// StalledFor returns for how long the connection of these ports has waited so far;
// false when there is none. It belongs to the goroutine of the loop.
func (m *Muxer) StalledFor(guestPort, hostPort uint32) (Stalled, bool) {
	c := m.table[key{guest: guestPort, host: hostPort}]
	if c == nil {
		return Stalled{}, false
	}
	return c.stalledFor(), true
}
