package muxer

import (
	"encoding/binary"
	"slices"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// Virtqueues of the device (virtio v1.4 §5.10.2).
const (
	rxQueue    = 0
	txQueue    = 1
	eventQueue = 2
)

// Feature bits of the device (virtio v1.4 §5.10.3) and of its rings (§6).
const (
	featureStream          = 1 << 0
	featureSeqpacket       = 1 << 1
	featureNoImpliedStream = 1 << 2
	featureIndirectDesc    = 1 << 28
	featureEventIdx        = 1 << 29
	featureVersion1        = 1 << 32
	featureRingPacked      = 1 << 34
	featureInOrder         = 1 << 35
)

// Features returns the feature bits that the device offers. IN_ORDER holds
// because every chain is used in the order in which it became available.
func (m *Muxer) Features() uint64 {
	offered := uint64(featureStream | featureSeqpacket | featureNoImpliedStream |
		featureIndirectDesc | featureEventIdx | featureVersion1 | featureInOrder)
	if m.cfg.Packed {
		offered |= featureRingPacked
	}
	return offered
}

// Config writes the device's configuration space, guest_cid, to the start of p
// (virtio v1.4 §5.10.4).
func (m *Muxer) Config(p []byte) {
	m.cid.told = m.cid.configured
	var cid [8]byte
	binary.LittleEndian.PutUint64(cid[:], m.cid.configured)
	copy(p, cid[:])
}

// Negotiated tells which features the driver acknowledged. No bit at all means
// streams, and so does SEQPACKET alone (virtio v1.4 §5.10.3).
func (m *Muxer) Negotiated(features uint64) {
	m.features = features
	m.noStreams = features&featureNoImpliedStream != 0 && features&featureStream == 0
	m.seqpacket = features&featureSeqpacket != 0
}

// Attach tells that a frontend is there: a driver may come up.
func (m *Muxer) Attach() {
	m.attached = true
	m.cid.told, m.events.known = 0, false
}

// Detach tells that the session is over; the rings were stopped before. Every
// connection ends as by Reset. Which ones the driver believes in is remembered, for
// it may go on in the next session. Host programs that wait for a driver wait on
// only as long as Config.WaitForGuest lets them.
func (m *Muxer) Detach() {
	m.attached = false
	m.lost.conns = m.believed()
	if m.met {
		m.cid.left = m.cid.active
	}
	m.forgetAll()
	for _, c := range m.waiting {
		if c.stage == stageWaiting && c.waitUntil == 0 {
			m.refuse(c, HandshakeNoGuest)
		}
	}
	m.waiting = slices.DeleteFunc(m.waiting, func(c *conn) bool { return c.stage != stageWaiting })
	// The guest's clock may stand still for long: nothing but those that live.
	m.guestTimers.Rebuild(m.guestDeadlines())
}

// StartQueue hands over a running ring until StopQueue. Bytes move once both the
// rx and the tx ring run; some frontends never configure the event ring.
func (m *Muxer) StartQueue(index int, q *virtqueue.Queue) {
	switch index {
	case rxQueue:
		m.rx, m.rxGather = q, gathering{}
		m.setRxStall(false)
	case txQueue:
		m.tx, m.txWaits, m.txFaulted = q, true, false
		m.txHold = moderation{round: 1, trust: 1}
		m.setTxStall(stallNone)
		m.batch.conn = nil // a fault in guest memory may have left one
	case eventQueue:
		m.startEvents(q)
		return
	}
	if m.running() {
		m.stats.Running.Set(1)
		m.clock.start(m.loop.Now())
		m.meetDriver()
		m.promoteWaiting()
	}
}

// meetDriver decides about a driver whose rings run for the first time since
// Attach or Reset: one that goes on is told what it lost, any other lost nothing.
func (m *Muxer) meetDriver() {
	if m.met {
		return
	}
	m.met = true
	if !m.lost.goesOn {
		clear(m.lost.conns)
		m.useCID(m.cid.begun(m.events.known))
		return
	}
	if m.cid.left != 0 {
		m.useCID(m.cid.left)
	}
	m.tellLosses()
}

// StopQueue takes a ring back. What the driver has published in the tx ring is
// served to the end first: it may be the last words of a guest that powers off.
func (m *Muxer) StopQueue(index int) {
	if index == rxQueue || index == txQueue {
		m.stats.Running.Set(0)
		m.clock.stop(m.loop.Now())
	}
	switch index {
	case rxQueue:
		m.setRxStall(false)
		if m.rx != nil {
			defer func() { m.rx = nil }() // also when the guest's memory is gone
			m.announceRx()
		}
	case txQueue:
		m.setTxStall(stallNone)
		if m.tx != nil {
			defer func() { m.tx, m.txHold.at = nil, 0 }()
			if !m.txFaulted {
				m.serveTx(true)
			}
			m.announceTx()
		}
	case eventQueue:
		m.events.q = nil
	}
}

// Kick tells that the driver made buffers available.
func (m *Muxer) Kick(index int) {
	switch index {
	case rxQueue:
		m.setRxStall(false)
	case txQueue:
		m.txWaits = true
	case eventQueue:
		m.events.kicked = true
	}
}

// Reset tells that the driver has lost its state. Its connections are over and
// it needs no RST; host programs read what was taken for them, then end of file.
func (m *Muxer) Reset() {
	m.forgetAll()
	clear(m.lost.conns)
	m.cid.left = 0
}

// forgetAll ends all connections and forgets the driver. The next one reads the
// configured CID, unless it is one that goes on.
func (m *Muxer) forgetAll() {
	m.ready.Clear()
	m.setRxStall(false)
	for _, c := range m.table {
		m.forget(c)
	}
	clear(m.dials)
	m.lost.goesOn, m.lost.due, m.lost.byRST, m.lost.holds, m.lost.at = false, false, false, false, 0
	m.met, m.events.there = false, false
	m.useCID(m.cid.configured)
}

// forget ends a connection without a word to the driver, which has forgotten it or
// learns of its end otherwise. One that it has not heard of waits again, and so does
// one that it has not accepted, if it may.
func (m *Muxer) forget(c *conn) {
	c.queued = false
	if c.stage == stageOpen && c.isUnasked() {
		m.demote(c)
		return
	}
	connecting := c.State() == csm.Connecting
	c.Forget()
	if connecting {
		m.turnedAway(c, HandshakeNoGuest)
	}
	m.bury(c)
}

func (m *Muxer) running() bool { return m.rx != nil && m.tx != nil }
