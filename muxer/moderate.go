package muxer

import "time"

// holdLimit is how long an interrupt of the tx ring may be held.
const holdLimit = time.Millisecond

// moderation holds interrupts of the tx ring back while packets come thick and fast.
// Those interrupts tell the driver of nothing but room in its ring, and each wakes
// the guest; used buffers are published meanwhile all the same. In virtio v1.4
// §2.7.7.2 an interrupt must come, but not at once.
//
// Some drivers let a program's write return when its packet was used, so an interrupt
// is held only where nobody waits for it: for packets without payload, and for those
// of connections that send on without it.
type moderation struct {
	at      time.Duration // when a held interrupt is due, by the loop's clock; 0: none is held
	served  time.Duration // when packets were last taken
	round   uint32        // counts the interrupts
	waiting int           // connections with payload in this round for whose use somebody may wait
	trust   uint32        // counts those interrupts that were held in vain
}

// payloadTaken notes that payload of c was taken off the ring.
func (h *moderation) payloadTaken(c *conn) {
	again := c.sentIn == h.round
	c.sentIn = h.round
	switch known := c.runsOn == h.trust; {
	case known:
	case again:
		c.runsOn = h.trust
		h.waiting--
	default:
		h.waiting++
	}
}

// interruptTx interrupts the driver for the used packets of the tx ring, or holds the
// interrupt.
func (m *Muxer) interruptTx() {
	h, now := &m.txHold, m.loop.Now()
	m.tx.Publish()
	if m.tx.Unannounced() == 0 {
		return
	}
	dense := now-h.served < holdLimit
	h.served = now
	// An eighth leaves the driver room to go on, also where a packet takes several
	// descriptors.
	if h.waiting > 0 || !dense || m.tx.Unannounced() >= m.tx.Size()/8 {
		m.announceTx()
		return
	}
	if h.at == 0 {
		h.at = now + holdLimit
	}
}

// announceTx sends an interrupt that may have been held.
func (m *Muxer) announceTx() {
	h := &m.txHold
	h.at, h.waiting = 0, 0
	h.round++
	m.tx.NotifyIfNeeded()
}

// expireHold sends an interrupt that has been held for as long as it may be. Who
// sends on without it has to show that anew.
func (m *Muxer) expireHold(now time.Duration) {
	if h := &m.txHold; h.at != 0 && h.at <= now {
		h.trust++
		m.announceTx()
	}
}
