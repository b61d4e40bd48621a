package muxer

import "time"

// gatherLimit is how long packets for the guest may gather.
const gatherLimit = 50 * time.Microsecond

// gathering has packets for the guest gather before the driver is interrupted for them,
// where host programs send many small ones. An event that is there when a turn is over
// brings the next packet within microseconds, and to wake the guest for each of them
// takes longer than to carry it. Used buffers are published meanwhile all the same: a
// driver that is awake takes them.
type gathering struct {
	dense bool          // no look of the loop since the last turn was in vain
	n     int           // entries of the used ring that gather
	since time.Duration // the first of them was used, by the loop's clock
}

// interruptRx interrupts the driver for the used buffers of the rx ring, or lets them
// gather: where an event was there as soon as the turn before was over, as long as each
// turn adds some and leaves nothing for the next one, and there is room and time for more.
func (m *Muxer) interruptRx(more bool) {
	g, now := &m.rxGather, m.loop.Now()
	m.rx.Publish()
	n, dense := m.rx.Unannounced(), g.dense
	g.dense = true
	if g.n == 0 {
		g.since = now
	}
	if more || !dense || n == g.n || now-g.since >= gatherLimit || !m.roomToGather() {
		m.announceRx()
		return
	}
	g.n = n
}

// roomToGather reports whether the driver has posted buffers for more packets. A quarter
// of the ring may be used, which leaves it time to post them again.
func (m *Muxer) roomToGather() bool { return m.rx.Unannounced() < m.rx.Size()/4 && !m.rx.Empty() }

// announceRx sends the driver an interrupt for what has gathered.
func (m *Muxer) announceRx() {
	m.rxGather.n = 0
	m.rx.NotifyIfNeeded()
}

// noEventFound notes that no event was there when the loop looked for one. The tx ring
// may have stopped meanwhile, and with it all that waits for both.
func (m *Muxer) noEventFound() {
	m.rxGather.dense = false
	if m.rx != nil {
		m.announceRx()
	}
}
