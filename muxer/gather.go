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
	rested bool          // the loop found no event since the last turn
	n      int           // entries of the used ring that gather
	since  time.Duration // the first of them was used, by the loop's clock
}

// interruptRx interrupts the driver for the used buffers of the rx ring, or lets them
// gather: until a turn adds none or is not the last for now, there are enough of them,
// or the loop rests.
func (m *Muxer) interruptRx(more bool) {
	g, now := &m.rxGather, m.loop.Now()
	m.rx.Publish()
	n, dense := m.rx.Unannounced(), !g.rested
	g.rested = false
	if g.n == 0 {
		g.since = now
	}
	// A quarter leaves the driver time to post them again.
	if more || !dense || n == g.n || n >= m.rx.Size()/4 || now-g.since >= gatherLimit {
		m.announceRx()
		return
	}
	g.n = n
}

// announceRx sends the driver an interrupt for what has gathered.
func (m *Muxer) announceRx() {
	m.rxGather.n = 0
	m.rx.NotifyIfNeeded()
}

// rests notes that no event was there when the loop looked for one.
func (m *Muxer) rests() {
	m.rxGather.rested = true
	if m.running() {
		m.announceRx()
	}
}
